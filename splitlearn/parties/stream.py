"""One stream of messages to a server and back, from the hello until it ends or the connection breaks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from splitlearn.certificates import Identity
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.losses import Loss, loss_of
from splitlearn.parties.protocol import CONVERSE
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.security import Patience, open_channel
from splitlearn.parties.wire import Message, MessageReader, write_message
from splitlearn.parties.wire_checks import WireLimits

# Between two tries to connect, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


@dataclass(frozen=True)
class Server:
    """A server and the way to it.

    Attributes:
        target: ``HOST:PORT``.
        identity: who this party is; None talks in the clear, on this machine alone.
        settings: how long to wait.
        limits: the largest messages that are accepted.
        name: of the server, for messages.
    """

    target: str
    identity: Identity | None
    settings: Patience
    limits: WireLimits
    name: str

    @property
    def title(self) -> str:
        """Name and address."""
        return f"{self.name} at {self.target}"

    def refusal(self, error: pb.Error) -> PartyError:
        """Return the error to raise for one that the server has sent."""
        return PartyError(f"{self.title} refuses: {error.sentence}", error.kind, error.is_final)


class Stream:
    """A conversation that the server has welcomed.

    Args:
        server: the server.
        hello: the head that is sent first.
        seconds: how long the welcome may take.

    Attributes:
        welcome: the server's answer to hello.

    Raises:
        NotOpenedError: there was no welcome, this time.
        PartyError: the server refuses the conversation.
        WireError: what listens there sends something else.
    """

    def __init__(self, server: Server, hello: pb.Head, seconds: float) -> None:
        self._server = server
        self._channel = open_channel(server.target, server.identity, server.settings, server.limits)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        open_stream: Any = self._channel.stream_stream(CONVERSE)
        self._stream: Any = open_stream(iter(self._outbox.get, None))
        self._reader = MessageReader(server.limits, server.title)
        try:
            self.send(write_message(hello))
            self.welcome = self._await_welcome(seconds)
        except BaseException:
            self.hang_up()
            raise

    def send(self, frames: Iterable[bytes]) -> None:
        """Send frames, as soon as the connection takes them."""
        for frame in frames:
            self._outbox.put(frame)

    def next(self) -> Message | None:
        """Return the next message; None if the server has ended the conversation.

        Raises:
            grpc.RpcError: the connection broke.
            WireError: the message cannot be accepted.
        """
        for frame in self._stream:
            message = self._reader.add(frame)
            if message is not None:
                return message
        return None

    def hang_up(self) -> None:
        """End the conversation on this side, whatever its state."""
        self._outbox.put(None)
        self._channel.close()

    def _await_welcome(self, seconds: float) -> Message:
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._stream.cancel()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        title = self._server.title
        try:
            message = self.next()
        except grpc.RpcError as error:
            loss = loss_of(error, self._server.title, self._server.target, self._server.identity)
            if is_late.is_set():
                loss = Loss(f"{title} did not answer within {seconds:.3g} s; see whether it is stopped or overloaded", True)
            raise NotOpenedError(loss) from error
        finally:
            timer.cancel()
        if message is None:
            raise NotOpenedError(Loss(f"{title} ended the conversation before it began; see its log", True))
        if message.kind == "error":
            raise self._server.refusal(message.head.error)
        if message.kind != "welcome":
            raise PartyError(f"{title} answered hello with {message.kind}", pb.ERROR_KIND_INTERNAL, True)
        return message


class NotOpenedError(Exception):
    """A stream could not be opened, this time."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.sentence)
        self.loss = loss


def open_stream(server: Server, hello: pb.Head, seconds: float, persists: bool = False) -> Stream:
    """Open a stream, and try again for some seconds where that may help.

    Args:
        server: the server.
        hello: the head that is sent first.
        seconds: for how long.
        persists: whether to try again whatever the reason: the server has accepted this party before.

    Raises:
        PartyLostError: the server cannot be reached, or refuses the certificate.
        PartyError: the server refuses the conversation.
        WireError: what listens there sends something else.
    """
    until = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            return Stream(server, hello, max(until - time.monotonic(), pause))
        except NotOpenedError as error:
            is_hopeless = not (persists or error.loss.may_come_back)
            if is_hopeless or time.monotonic() + pause >= until:
                raise PartyLostError(error.loss.sentence) from error.__cause__
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
