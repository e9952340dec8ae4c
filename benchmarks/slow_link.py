"""A link between two ports of this machine that is as slow as a network of some bandwidth and delay."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType
from typing import Self

_PIECE = 1 << 14
# How much may be on its way in each direction, as in a network's buffers.
_MOST_PIECES = 256


class SlowLink:
    """Passes on whatever comes to its port, later and no faster than the network.

    Args:
        target: the port that it goes to.
        bandwidth_mbps: megabits (10**6 bits) a second in each direction.
        rtt_ms: milliseconds from sending a byte until an answer is here.

    Attributes:
        port: where to connect.
    """

    def __init__(self, target: int, bandwidth_mbps: float, rtt_ms: float) -> None:
        self._target = target
        self._seconds_a_byte = 8e-6 / bandwidth_mbps
        self._delay_s = rtt_ms / 2000
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = [self._listener]
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for end in self._ends:
            # Wakes the thread that waits for connections or data.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._ends.append(near)
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends.append(far)
                for source, sink in ((near, far), (far, near)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(_MOST_PIECES)
                    threading.Thread(target=self._take, args=(source, under_way), daemon=True).start()
                    threading.Thread(target=self._deliver, args=(sink, under_way), daemon=True).start()

    def _take(self, source: socket.socket, under_way: queue.Queue[tuple[float, bytes]]) -> None:
        """Take what is sent, and say when it arrives: once all before it has been sent, and the delay has passed."""
        is_sent_at = 0.0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                is_sent_at = max(is_sent_at, time.monotonic()) + len(data) * self._seconds_a_byte
                under_way.put((is_sent_at + self._delay_s, data))
        under_way.put((0.0, b""))

    def _deliver(self, sink: socket.socket, under_way: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                arrives_at, data = under_way.get()
                time.sleep(max(0.0, arrives_at - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
