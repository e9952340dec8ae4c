"""The server's end over gRPC: the messages of all clients are answered in one thread, in the order in which they come."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import grpc

from splitlearn.parties.errors import PartyError
from splitlearn.parties.mailbox import Mailbox, Outbox
from splitlearn.parties.mailboxes import Mailboxes
from splitlearn.parties.protocol import CONVERSE
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.security import peer_name
from splitlearn.parties.service_settings import Answer, Answerer, ServiceSettings
from splitlearn.parties.wire import Message, MessageReader, write_message
from splitlearn.parties.wire_checks import WireError, WireLimits
from splitlearn.redaction import reason_of

_log = logging.getLogger(__name__)
Outcome = Answer | Future[Answer]
# How much may wait in a session, in the largest messages.
_MESSAGES_WAITING = 4
# How often to see whether a client still waits for its welcome.
_GLANCE_SECONDS = 0.2
# How often sessions are looked through for those that nobody comes back to.
_LONGEST_ROUND = 10.0


class PartyService(grpc.GenericRpcHandler):
    """Has the messages of all clients answered.

    Args:
        answerer_for: returns whoever answers a client, by the name in its certificate, None in the clear.
        settings: what clients may do.
        limits: the largest messages that are accepted.
        begin_thread: called first in the thread that computes: torch's number of threads counts for each thread by itself.
    """

    def __init__(
        self,
        answerer_for: Callable[[str | None], Answerer],
        settings: ServiceSettings | None = None,
        limits: WireLimits | None = None,
        begin_thread: Callable[[], None] | None = None,
    ) -> None:
        self._answerer_for = answerer_for
        self._settings, self._limits = settings or ServiceSettings(), limits or WireLimits()
        self._begin_thread = begin_thread
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        room = _MESSAGES_WAITING * self._limits.max_message_bytes
        self._mailboxes = Mailboxes(self._settings, room, lambda mailbox: self.run(mailbox.answerer.end))
        self._is_stopped = threading.Event()
        self._worker = threading.Thread(target=self._work, name="party-part", daemon=True)
        self._worker.start()
        threading.Thread(target=self._expire, name="party-sessions", daemon=True).start()

    @property
    def num_threads(self) -> int:
        """How many threads a server of gRPC needs for it: one for each client, and some to refuse others with a sentence."""
        return self._settings.max_clients + 4

    @property
    def clients(self) -> list[str]:
        """The names of the clients that have sessions."""
        return [mailbox.title for mailbox in self._mailboxes.all()]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return what answers a call; gRPC asks for it."""
        return grpc.stream_stream_rpc_method_handler(self._converse) if handler_call_details.method == CONVERSE else None

    def run(self, task: Callable[[], None]) -> None:
        """Have the thread that computes run a task, after the messages that have come."""
        self._jobs.put(task)

    def refuse_clients(self, sentence: str) -> None:
        """Accept no further client, and let the others go on.

        Args:
            sentence: what further clients are told.
        """
        self._mailboxes.refuse_new(sentence)

    def stop(self, sentence: str, seconds: float = 10.0) -> None:
        """End all sessions, once the messages that have come are carried out.

        Args:
            sentence: what clients are told.
            seconds: how long to wait for the messages.
        """
        self.refuse_clients(sentence)
        for mailbox in self._mailboxes.all():
            self.run(partial(self._end, mailbox, PartyError(sentence, pb.ERROR_KIND_DRAINING, is_final=True)))
        # Sessions that end leave a task each; the thread ends after those.
        self.run(partial(self._jobs.put, None))
        self._is_stopped.set()
        self._worker.join(seconds)

    # --- one connection ----------------------------------------------------------------------------------------------------

    def _converse(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        client = peer_name(context)
        title = client or "a client without a certificate"
        reader = MessageReader(self._limits, title)
        outbox: Outbox = queue.SimpleQueue()
        try:
            hello = self._await_hello(frames, reader, context)
            if hello is None:
                return
            mailbox = self._enter(client, title, hello, outbox, context.is_active)
        except (PartyError, WireError) as error:
            _log.warning("%s is refused: %s", title, error)
            yield from write_message(_error_head(error, is_final=True))
            return
        leave = partial(self._leave, mailbox, outbox)
        if not context.add_callback(leave):
            leave()
        listen = partial(self._listen, frames, reader, mailbox, outbox)
        threading.Thread(target=listen, name="party-messages", daemon=True).start()
        yield from iter(outbox.get, None)

    def _await_hello(self, frames: Iterator[bytes], reader: MessageReader, context: grpc.ServicerContext) -> Message | None:
        """Return a connection's first message; None if it ended before, or took too long."""
        timer = threading.Timer(self._settings.greeting_seconds, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            for frame in frames:
                message = reader.add(frame)
                if message is not None:
                    return message
        except WireError:
            raise
        except Exception as error:
            # gRPC raises one of no particular class where a connection broke.
            _log.info("a connection ended before its hello (%s)", reason_of(error))
        finally:
            timer.cancel()
        return None

    def _enter(self, client: str | None, title: str, hello: Message, outbox: Outbox, is_waiting: Callable[[], bool]) -> Mailbox:
        """Welcome a client to a new session, or to the one that it had before its connection broke."""
        if hello.kind != "hello":
            raise WireError(f"{title} sent {hello.kind} before hello")
        token = hello.head.hello.session
        mailbox = self._mailboxes.find(token, client) if token else self._begin(client, hello, is_waiting)
        welcome = pb.Welcome()
        welcome.CopyFrom(mailbox.welcome or welcome)
        welcome.session, welcome.last_call = mailbox.token, mailbox.last_call
        mailbox.attach(outbox, write_message(pb.Head(welcome=welcome)), hello.head.acknowledged)
        _log.info("%s %s", title, "goes on with its session" if token else "has begun a session")
        return mailbox

    def _begin(self, client: str | None, hello: Message, is_waiting: Callable[[], bool]) -> Mailbox:
        """Have the thread that computes answer a hello; the client says how long it waits for its turn."""
        answerer = self._answerer_for(client)
        mailbox = self._mailboxes.begin(client, answerer)
        greeted: Future[Outcome] = Future()

        def greet() -> None:
            # A client that has gone is not greeted: the part would be kept for it.
            if greeted.set_running_or_notify_cancel():
                greeted.set_result(self._attempt(mailbox, hello, partial(answerer.answer, hello)))

        self.run(greet)
        while not wait([greeted], _GLANCE_SECONDS).done:
            if (self._is_stopped.is_set() or not is_waiting()) and greeted.cancel():
                self._mailboxes.remove(mailbox)
                raise PartyError("the server computed for other clients until one of both ended", pb.ERROR_KIND_BUSY, True)
        answer = greeted.result()
        head = pb.Head() if isinstance(answer, Future) else answer[0]
        if not head.HasField("welcome"):
            self._mailboxes.remove(mailbox)
            raise PartyError(head.error.sentence or "this server does not answer hello", head.error.kind, is_final=True)
        head.welcome.limits.max_message_bytes = self._limits.max_message_bytes
        head.welcome.limits.session_seconds = self._settings.session_seconds
        mailbox.welcome = head.welcome
        return mailbox

    def _leave(self, mailbox: Mailbox, outbox: Outbox) -> None:
        mailbox.detach(outbox)
        outbox.put(None)

    def _listen(self, frames: Iterator[bytes], reader: MessageReader, mailbox: Mailbox, outbox: Outbox) -> None:
        """Take a connection's messages until it ends."""
        try:
            for frame in frames:
                message = reader.add(frame)
                if message is not None and mailbox.accept(message):
                    self.run(partial(self._carry_out, mailbox, message))
                del message
        except WireError as error:
            _log.warning("the session of %s is ended: %s", mailbox.title, error)
            self._end(mailbox, error)
        except Exception as error:
            _log.info("the connection of %s has ended (%s)", mailbox.title, reason_of(error))
        outbox.put(None)

    # --- the thread that computes --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._begin_thread is not None:
            self._begin_thread()
        for job in iter(self._jobs.get, None):
            try:
                job()
            except Exception:
                _log.exception("a task of the server failed")
            # Do not keep a message's tensors until the next one comes.
            del job

    def _carry_out(self, mailbox: Mailbox, message: Message) -> None:
        if mailbox.held_back is not None:
            mailbox.held_back.append(message)
        elif not mailbox.is_over:
            began = time.perf_counter()
            answer = self._attempt(mailbox, message, partial(mailbox.answerer.answer, message))
            if isinstance(answer, Future):
                mailbox.held_back = deque()
                answer.add_done_callback(lambda future: self.run(partial(self._resume, mailbox, message, future)))
                return
            answer[0].seconds = answer[0].seconds or time.perf_counter() - began
            self._reply(mailbox, message, answer)

    def _resume(self, mailbox: Mailbox, message: Message, future: Future[Answer]) -> None:
        """Give an answer that others had to do something for, and go on with what the client has sent since."""
        held_back, mailbox.held_back = mailbox.held_back or (), None
        answer = self._attempt(mailbox, message, future.result)
        if not isinstance(answer, Future):
            self._reply(mailbox, message, answer)
        for later in held_back:
            self._carry_out(mailbox, later)

    def _reply(self, mailbox: Mailbox, message: Message, answer: Answer) -> None:
        head, tensors = answer
        head.call = message.head.call
        if head.HasField("error"):
            _log.warning("message %d of %s (%s): %s", head.call, mailbox.title, message.kind, head.error.sentence)
        try:
            mailbox.answer(message, list(write_message(head, tensors, self._limits.chunk_bytes)))
        except (PartyError, WireError) as error:
            self._end(mailbox, error)
        if message.kind == "close" or head.error.is_final:
            self._mailboxes.remove(mailbox)

    def _attempt(
        self, mailbox: Mailbox, message: Message, work: Callable[[], Answer | Future[Answer]]
    ) -> Answer | Future[Answer]:
        """Return the result of some work on a message; an error is one, too."""
        try:
            return work()
        except (PartyError, WireError) as error:
            return _error_head(error, is_final=isinstance(error, PartyError) and error.is_final), {}
        except Exception as error:
            _log.exception("message %d of %s (%s) failed", message.head.call, mailbox.title, message.kind)
            said = f"{message.kind} failed there ({type(error).__name__}: {reason_of(error)}); see its log"
            return _error_head(PartyError(said, pb.ERROR_KIND_INTERNAL), is_final=False), {}

    def _end(self, mailbox: Mailbox, error: Exception) -> None:
        """End a session because of an error, which the client is told."""
        mailbox.end(write_message(_error_head(error, is_final=True)))
        self._mailboxes.remove(mailbox)

    def _expire(self) -> None:
        while not self._is_stopped.wait(min(_LONGEST_ROUND, self._settings.session_seconds / 4)):
            self._mailboxes.remove_expired()


def _error_head(error: Exception, is_final: bool) -> pb.Head:
    kind = error.kind if isinstance(error, PartyError) else pb.ERROR_KIND_INPUT
    said = pb.Error(kind=pb.ErrorKind.ValueType(kind), sentence=str(error), is_final=is_final)
    return pb.Head(error=said)
