"""The server's memory of one client: which of its messages have come, and the answers that it may not have yet.

A mailbox outlives connections. Each message is accepted once, by its number, whichever connection it comes over.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable

from splitlearn.parties.errors import PartyError
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.service_settings import Answerer
from splitlearn.parties.wire import Message
from splitlearn.parties.wire_checks import WireError

# The frames of answers on their way to a client; None ends the connection.
Outbox = queue.SimpleQueue[bytes | None]


class Mailbox:
    """One client's session.

    Args:
        token: by which the client goes on with it; a secret.
        client: the name in its certificate; None in the clear.
        answerer: whoever answers the client's messages.
        max_bytes: how much may wait to be carried out, and how much of answers to be acknowledged.

    Attributes:
        welcome: what the client was welcomed with; None until then.
        held_back: messages behind one whose answer comes later; None if none does. The thread that computes has it to itself.
    """

    def __init__(self, token: str, client: str | None, answerer: Answerer, max_bytes: int) -> None:
        self.token = token
        self.client = client
        self.answerer = answerer
        self.welcome: pb.Welcome | None = None
        self.held_back: deque[Message] | None = None
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._outbox: Outbox | None = None
        self._received = 0
        self._answers: dict[int, list[bytes]] = {}
        self._waiting_bytes = 0
        self._left_at = time.monotonic()
        self._is_over = False

    @property
    def title(self) -> str:
        """The client's name for messages."""
        return self.client or "a client without a certificate"

    @property
    def is_connected(self) -> bool:
        """Whether the client has a connection at the moment."""
        return self._outbox is not None

    @property
    def is_over(self) -> bool:
        """Whether the session has ended for good."""
        return self._is_over

    @property
    def last_call(self) -> int:
        """The highest number of a message that has come."""
        return self._received

    def seconds_alone(self) -> float:
        """Return for how long the client has had no connection."""
        return 0.0 if self.is_connected else time.monotonic() - self._left_at

    def attach(self, outbox: Outbox, greeting: Iterable[bytes], acknowledged: int) -> None:
        """Go on over a new connection; the one before is ended.

        Args:
            outbox: of the new connection.
            greeting: frames that go first; answers that were not acknowledged follow.
            acknowledged: all answers up to this number have arrived.

        Raises:
            PartyError: the session is over.
        """
        with self._changed:
            if self._is_over:
                raise PartyError(f"the session of {self.title} has just ended; begin a new one", pb.ERROR_KIND_SESSION)
            if self._outbox is not None:
                self._outbox.put(None)
            self._forget_answers(acknowledged)
            for frames in (greeting, *self._answers.values()):
                for frame in frames:
                    outbox.put(frame)
            self._outbox = outbox

    def detach(self, outbox: Outbox) -> None:
        """Note that a connection has ended; another one may have taken its place.

        Args:
            outbox: of the connection.
        """
        with self._changed:
            if self._outbox is outbox:
                self._outbox = None
                self._left_at = time.monotonic()

    def accept(self, message: Message) -> bool:
        """Take a message that has come, once; wait while too much waits to be carried out.

        Args:
            message: from the client.

        Returns:
            Whether it is new, and to be carried out.

        Raises:
            WireError: a message before it is missing.
        """
        number = message.head.call
        with self._changed:
            self._forget_answers(message.head.acknowledged)
            # A client that sends faster than the part computes is slowed down by its connection, once nobody reads from it.
            self._changed.wait_for(
                lambda: self._is_over or not self._waiting_bytes or self._waiting_bytes + message.num_bytes <= self._max_bytes
            )
            if number <= self._received or self._is_over:
                return False
            if number != self._received + 1:
                raise WireError(f"{self.title} sent message {number} after message {self._received}")
            self._received = number
            self._waiting_bytes += message.num_bytes
            return True

    def answer(self, message: Message, frames: list[bytes]) -> None:
        """Send the answer to a message that has been carried out, and keep it until it is acknowledged.

        Args:
            message: the message.
            frames: of the answer.

        Raises:
            PartyError: more answers are kept than the limits allow.
        """
        with self._changed:
            self._waiting_bytes -= message.num_bytes
            self._changed.notify_all()
            if self._is_over:
                return
            kept = sum(len(frame) for answer in self._answers.values() for frame in answer)
            if self._answers and kept + sum(map(len, frames)) > self._max_bytes:
                said = f"{self.title} has not acknowledged {len(self._answers)} answers of {kept:,} bytes, and no more are kept"
                raise PartyError(said, pb.ERROR_KIND_LIMIT, is_final=True)
            self._answers[message.head.call] = frames
            self._put(frames)

    def end(self, farewell: Iterable[bytes] = ()) -> None:
        """End the session for good.

        Args:
            farewell: frames that go last.
        """
        with self._changed:
            self._put(farewell)
            if self._outbox is not None:
                self._outbox.put(None)
            self._is_over = True
            self._answers.clear()
            self._changed.notify_all()

    def _put(self, frames: Iterable[bytes]) -> None:
        if self._outbox is not None:
            for frame in frames:
                self._outbox.put(frame)

    def _forget_answers(self, acknowledged: int) -> None:
        for number in [number for number in self._answers if number <= acknowledged]:
            del self._answers[number]
