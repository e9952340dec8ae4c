"""The client's end over gRPC: numbered messages to the server of a part, each carried out once although connections break.

The server carries messages out in order, and keeps an answer until the client has acknowledged it. If the connection breaks,
the client connects again, says which answers it has, and sends again what the server has not received.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future

import grpc
import torch

from splitlearn.certificates import Identity
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.losses import Loss, loss_of, raised_again
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.security import Patience
from splitlearn.parties.stream import Server, Stream, open_stream
from splitlearn.parties.wire import Message, write_message
from splitlearn.parties.wire_checks import WireError, WireLimits

# An answer may be the state of a whole part. Memory is taken as its bytes come, and not by what its head says.
_LARGEST_ANSWER = WireLimits(max_message_bytes=1 << 40)
# A farewell is not worth waiting for.
_CLOSE_SECONDS = 5.0


class _Call:
    """A message that was sent.

    Attributes:
        number: of the message.
        kind: the name of its body, such as ``"forward"``.
        frames: kept until the answer is there, to be sent again if the connection breaks.
        answer: comes later.
        is_dropped: whether nobody wants the answer any more.
    """

    def __init__(self, number: int, kind: str, frames: list[bytes]) -> None:
        self.number = number
        self.kind = kind
        self.frames = frames
        self.answer: Future[Message] = Future()
        self.is_dropped = False

    @property
    def failed(self) -> BaseException | None:
        """The error that it was answered with."""
        return self.answer.exception() if self.answer.done() else None

    @property
    def is_of_no_use(self) -> bool:
        """Whether its answer only says that it was carried out."""
        return self.answer.done() and (self.is_dropped or (self.failed is None and self.answer.result().kind == "done"))


class GrpcConnection:
    """Sends messages in order, and hands each answer to whoever asked. Any thread may use it. The first message is hello.

    Args:
        target: the server's ``HOST:PORT``.
        identity: who this party is; None talks in the clear, on this machine alone.
        settings: how long to wait.
        limits: the largest answers that are accepted; None accepts the state of a part of any size.
        name: the server's, for messages.

    Attributes:
        party: how messages name the other party: name and address.
        sent_bytes: of all messages, without what gRPC and TLS add; a message that was sent again counts again.
        received_bytes: likewise.
        waited_seconds: how long `wait` has waited.
        server_seconds: how long the server has computed, as it says itself.
        server_peak_bytes: the most memory that its process has had resident by its last step, as it says itself.
        reconnects: how often the connection broke and was opened again.
    """

    def __init__(
        self,
        target: str,
        identity: Identity | None = None,
        settings: Patience | None = None,
        limits: WireLimits | None = None,
        name: str = "the server",
    ) -> None:
        self._settings = settings or Patience()
        self._server = Server(target, identity, self._settings, limits or _LARGEST_ANSWER, name)
        self.party = self._server.title
        self.sent_bytes = self.received_bytes = self.reconnects = self.server_peak_bytes = 0
        self.waited_seconds = self.server_seconds = 0.0
        self._hello = pb.Hello()
        self._most_bytes = 0
        self._lock = threading.RLock()
        # Those whose answers have not come, or have not been fetched, in order.
        self._calls: dict[int, _Call] = {}
        self._dropped: deque[int] = deque()
        self._next = self._acknowledged = 0
        self._error: Exception | None = None
        self._is_closing = False
        # None while the connection is broken.
        self._stream: Stream | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was neither closed nor given up."""
        return self._error is None

    def post(self, head: pb.Head, tensors: Mapping[str, torch.Tensor] | None = None) -> int:
        """Send a message without waiting for its answer; hello waits until the server has welcomed this party.

        Args:
            head: it is given its number here.
            tensors: its tensors by name; they may be changed as soon as this returns.

        Returns:
            The number of the message.

        Raises:
            WireError: a tensor cannot be sent, or the server would not take so many bytes at once.
            PartyError: the server has ended the conversation, or refuses it.
            PartyLostError: the server cannot be reached, or refuses the certificate, or the connection is closed or lost.
        """
        kind = head.WhichOneof("body") or ""
        if (kind == "hello") != (self._next == 0):
            raise ValueError(f"the first message must be hello, and no other; this is {kind}")
        if kind == "hello":
            return self._open(head)
        with self._lock:
            if self._error is not None:
                raise raised_again(self._error)
            dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
            head.call, head.acknowledged = self._next, self._acknowledged
            head.dropped.extend(dropped)
            try:
                self._refuse_large(kind, tensors or {})
                frames = list(write_message(head, tensors, self._server.limits.chunk_bytes))
            except WireError:
                self._dropped.extend(dropped)
                raise
            # Nothing fails from here on, so the number is taken.
            call = self._calls[self._next] = _Call(self._next, kind, frames)
            self._next += 1
            self._send(call)
        return call.number

    def wait(self, number: int) -> Message:
        """Return the answer to a message, once.

        Args:
            number: from `post`.

        Raises:
            PartyError: the message, or an earlier one whose answer nobody waited for, was refused.
            PartyLostError: the server is lost, or has not answered within the time that the settings allow.
        """
        return self._wait(number, self._settings.answer)

    def drop(self, number: int) -> None:
        """Tell the server, with the next message, that the backward pass of a forward call will never come.

        A finalizer may call it, in any thread: it takes no lock and sends nothing.

        Args:
            number: of the forward call.
        """
        self._dropped.append(number)
        call = self._calls.get(number)
        if call is not None:
            call.is_dropped = True

    def close(self) -> None:
        """Say farewell and close: the server forgets the session. A connection that is closed already stays so."""
        self._is_closing = True
        if self._stream is not None:
            with contextlib.suppress(PartyError, PartyLostError, WireError):
                self._wait(self.post(pb.Head(close=pb.Close())), _CLOSE_SECONDS)
        self._give_up(PartyLostError(f"the connection to {self.party} is closed"))

    def _open(self, head: pb.Head) -> int:
        stream = open_stream(self._server, head, self._settings.connect)
        self._hello.CopyFrom(head.hello)
        self._hello.session = stream.welcome.head.welcome.session
        self._most_bytes = stream.welcome.head.welcome.limits.max_message_bytes or self._server.limits.max_message_bytes
        call = self._calls[0] = _Call(0, "hello", [])
        call.answer.set_result(stream.welcome)
        self.sent_bytes, self.received_bytes = head.ByteSize(), stream.welcome.num_bytes
        self._next, self._stream = 1, stream
        threading.Thread(target=self._listen, args=(stream,), name="party-answers", daemon=True).start()
        return 0

    def _wait(self, number: int, seconds: float) -> Message:
        with self._lock:
            call = self._calls[number]
        began = time.perf_counter()
        try:
            message = call.answer.result(seconds)
        except TimeoutError:
            error = PartyLostError(f"{self.party} did not answer {call.kind} within {seconds:g} s; see its log, or wait longer")
            self._give_up(error)
            raise error from None
        finally:
            self.waited_seconds += time.perf_counter() - began
            self._raise_earlier(number)
        return message

    def _raise_earlier(self, number: int) -> None:
        """Forget a message that was waited for, and raise the error of an earlier one that nobody waited for."""
        with self._lock:
            failed = [call for call in self._calls.values() if call.number < number and call.failed is not None]
            spent = [call.number for call in self._calls.values() if call.number <= number and call.is_of_no_use]
            for spent_number in [*spent, *(call.number for call in failed), number]:
                self._calls.pop(spent_number, None)
        if failed and failed[0].failed is not None:
            raise failed[0].failed

    def _listen(self, stream: Stream) -> None:
        """Hand out answers, and connect again if the connection breaks, until the end."""
        try:
            while True:
                loss = self._receive(stream)
                with self._lock:
                    self._stream = None
                stream.hang_up()
                if not self.is_open or self._is_closing:
                    return
                if not self._settings.reconnect or not loss.may_come_back:
                    raise PartyLostError(loss.sentence)
                stream = self._reopen()
        except Exception as error:
            self._give_up(error)
        finally:
            stream.hang_up()
            self._give_up(PartyLostError(f"the connection to {self.party} is closed"))

    def _reopen(self) -> Stream:
        hello = pb.Head(acknowledged=self._acknowledged, hello=self._hello)
        stream = open_stream(self._server, hello, self._settings.reconnect, persists=True)
        with self._lock:
            self.reconnects += 1
            self._stream = stream
            for call in self._calls.values():
                if call.number > stream.welcome.head.welcome.last_call and not call.answer.done():
                    self._send(call)
        return stream

    def _receive(self, stream: Stream) -> Loss:
        """Hand out answers until the connection breaks."""
        try:
            while (message := stream.next()) is not None:
                self._deliver(message)
                # Do not keep an answer's tensors until the next one comes.
                del message
        except grpc.RpcError as error:
            return loss_of(error, self._server.title, self._server.target, self._server.identity)
        return Loss(f"{self.party} has ended the conversation; see its log", True)

    def _deliver(self, message: Message) -> None:
        number = message.head.call
        error = self._server.refusal(message.head.error) if message.kind == "error" else None
        with self._lock:
            self.received_bytes += message.num_bytes
            call = self._calls.get(number)
            if call is not None and not call.answer.done():
                # Answers come in order; one that comes again is passed over.
                self._acknowledged = max(self._acknowledged, number)
                self.server_seconds += message.head.seconds
                self.server_peak_bytes = max(self.server_peak_bytes, message.head.done.peak_rss_bytes)
                call.frames = []
                if call.is_dropped:
                    del self._calls[number]
                if error is None:
                    call.answer.set_result(message)
                else:
                    call.answer.set_exception(error)
        if error is not None and error.is_final:
            raise raised_again(error)

    def _send(self, call: _Call) -> None:
        # While the connection is broken the call waits for the next one.
        if self._stream is not None:
            self._stream.send(call.frames)
            self.sent_bytes += sum(map(len, call.frames))

    def _refuse_large(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self._most_bytes:
            raise WireError(
                f"{kind} would send {size:,} bytes at once, and {self.party} takes at most {self._most_bytes:,}; send smaller "
                "batches, or have its holder raise limits.message_mib"
            )

    def _give_up(self, error: Exception) -> None:
        """Close for good: whoever waits is told why."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            stream, self._stream = self._stream, None
            for call in self._calls.values():
                if not call.answer.done():
                    call.answer.set_exception(raised_again(error))
        if stream is not None:
            stream.hang_up()
