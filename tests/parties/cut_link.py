"""A link between two ports of this machine, whose connections can be cut with a reset, stalled, and counted."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class CutLink:
    """Passes on whatever comes to its port.

    Args:
        target: the port that it goes to.
        port: where to connect; 0 takes a free one.

    Attributes:
        port: where to connect.
        cut_after: for each connection to come, after how many bytes of both directions it is cut; those after them are not.
        refuses: whether further connections are closed at once.
        num_connections: how many there were.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self.cut_after: list[int] = []
        self.refuses = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Wakes the thread that waits for connections.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._goes_on.set()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        pairs, self._pairs = self._pairs, []
        for end in [end for pair in pairs for end in pair]:
            # A linger of 0 s resets the connection, as a router does that has forgotten it.
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def stall(self) -> None:
        """Pass nothing on any more, without a word, like a cable that is pulled out."""
        self._goes_on.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                if self.refuses:
                    near.close()
                    continue
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self.num_connections += 1
            self._pairs.append((near, far))
            left = [self.cut_after.pop(0)] if self.cut_after else []
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, sink, left), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                self._goes_on.wait()
                if left and len(data) >= left[0]:
                    sink.sendall(data[: left[0]])
                    self.cut()
                    return
                if left:
                    left[0] -= len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
