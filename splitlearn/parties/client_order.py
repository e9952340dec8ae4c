"""The order in which several clients train one part, which makes their runs repeatable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from splitlearn.naming import named
from splitlearn.parties.part_work import Answer
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.wire import Message
from splitlearn.training import ORDERS, SEQUENTIAL, SharedSteps


@dataclass(frozen=True)
class Sharing:
    """How several clients train one part.

    Args:
        clients: their names, in the order in which they take turns, or in which their gradients are added.
        order: ``"sequential"``: one step of the part with each client in turn; ``"concurrent"``: one with all of them.
        num_steps: how many steps the part will take, for its schedule.
        seed: what the part's adapters draw their initial values from.

    Raises:
        ValueError: there are no clients or one twice, or another setting is out of range.
    """

    clients: tuple[str, ...]
    order: str
    num_steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.clients or len(set(self.clients)) != len(self.clients):
            raise ValueError(f"{named('clients')} is {list(self.clients)}; with an order, name each client once")
        if self.order not in ORDERS:
            raise ValueError(f"{named('order')} is {self.order!r}; use one of {', '.join(ORDERS)}")
        if self.num_steps < 1:
            raise ValueError(f"{named('steps')} is {self.num_steps}; use 1 or more")


@dataclass(frozen=True, eq=False)
class _Deferred:
    """A message that waits for other clients."""

    message: Message
    work: Callable[[], Answer]
    future: Future[Answer]


class ClientOrder(ABC):
    """Says when a client's message is carried out. All methods are called in the thread that computes.

    Args:
        clients: the clients' names in order.
        steps: the part's steps.
    """

    def __init__(self, clients: Sequence[str], steps: SharedSteps) -> None:
        self._clients = list(clients)
        self._steps = steps
        self._deferred: dict[str, _Deferred] = {}
        self._is_joined = False
        # Why the runs of all clients have ended; empty as long as they go on.
        self._end = ""

    def admit(self, client: str, message: Message, work: Callable[[], Answer]) -> Answer | Future[Answer]:
        """Carry out a message now, or once other clients have done what comes first.

        Args:
            client: who sent it.
            message: the message.
            work: carries it out; an error is an answer, too.
        """
        if self._end:
            return self._farewell()
        try:
            return self._admit(client, message, work)
        except Exception as error:
            # Others may wait for a step that will not be taken.
            self._end_all(f"a step of the part failed ({type(error).__name__}: {error})")
            raise

    def leave(self, client: str, is_lost: bool) -> None:
        """Go on without a client.

        Args:
            client: whose session has ended.
            is_lost: it has not said that it is done, so the others cannot go on as they would have: all are told.
        """
        if client not in self._clients:
            return
        if is_lost:
            self._end_all(f"{client} was lost, and the part cannot go on without it as it would have")
            return
        self._leave(client)

    @abstractmethod
    def _admit(self, client: str, message: Message, work: Callable[[], Answer]) -> Answer | Future[Answer]:
        """Carry out a message now or later."""

    @abstractmethod
    def _go_on(self) -> None:
        """Carry out deferred messages, if all has come that they wait for."""

    def _defer(self, client: str, message: Message, work: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._deferred[client] = _Deferred(message, work, future)
        return future

    def _leave(self, client: str) -> None:
        """Go on without a client that is done."""
        self._clients.remove(client)
        self._steps.zero(client)
        self._go_on()

    def _end_all(self, reason: str) -> None:
        """Tell all clients that their runs have ended."""
        self._end = reason
        deferred, self._deferred = self._deferred, {}
        for one in deferred.values():
            one.future.set_result(self._farewell())

    def _farewell(self) -> Answer:
        sentence = f"{self._end}; have the server started anew, and all clients go on from checkpoints of one step"
        return pb.Head(error=pb.Error(kind=pb.ERROR_KIND_STEP, sentence=sentence, is_final=True)), {}


class Turns(ClientOrder):
    """One client after another: a turn is all that a client asks up to a step, and the step."""

    def _admit(self, client: str, message: Message, work: Callable[[], Answer]) -> Answer | Future[Answer]:
        if client == self._clients[0]:
            answer = self._carry_out(client, message, work)
            self._go_on()
            return answer
        return self._defer(client, message, work)

    def _carry_out(self, client: str, message: Message, work: Callable[[], Answer]) -> Answer:
        """Carry out a message of the client whose turn it is; with a step its turn ends."""
        if message.kind in ("ask_norms", "step") and not self._is_joined:
            self._steps.scale(client, scale_of(message))
            self._steps.join([client])
            self._is_joined = True
        answer = work()
        if message.kind == "step" and not answer[0].HasField("error"):
            self._steps.step(clip_of(message))
            self._is_joined = False
            self._clients.append(self._clients.pop(0))
        return answer

    def _go_on(self) -> None:
        """Carry out the message for which the client waits whose turn it has become."""
        while self._clients and self._clients[0] in self._deferred:
            client = self._clients[0]
            deferred = self._deferred.pop(client)
            deferred.future.set_result(self._carry_out(client, deferred.message, deferred.work))

    def _leave(self, client: str) -> None:
        if client == self._clients[0] and self._is_joined:
            # It has left before its step.
            self._steps.join([])
            self._is_joined = False
        super()._leave(client)


class Together(ClientOrder):
    """All clients at once: a step is taken with the mean of their gradients, once all have asked for it."""

    def _admit(self, client: str, message: Message, work: Callable[[], Answer]) -> Answer | Future[Answer]:
        if message.kind not in ("ask_norms", "step"):
            return work()
        if not self._is_joined:
            self._steps.scale(client, scale_of(message))
        if message.kind == "step":
            # A step that cannot be ordered is refused before the others depend on it.
            answer = work()
            if answer[0].HasField("error"):
                return answer
            future = self._defer(client, message, lambda: answer)
        else:
            future = self._defer(client, message, work)
        self._go_on()
        return future

    def _go_on(self) -> None:
        if not self._clients or any(client not in self._deferred for client in self._clients):
            return
        if not self._is_joined:
            self._steps.join(self._clients)
            self._is_joined = True
        waiting = [self._deferred[client] for client in self._clients]
        asking = [deferred for deferred in waiting if deferred.message.kind == "ask_norms"]
        if not asking:
            clips = [clip for deferred in waiting if (clip := clip_of(deferred.message)) is not None]
            self._steps.step(torch.stack([clip.reshape(()) for clip in clips]).min() if clips else None)
            self._is_joined = False
        for client, deferred in zip(list(self._clients), waiting, strict=True):
            if not asking or deferred in asking:
                del self._deferred[client]
                deferred.future.set_result(deferred.work())


def scale_of(message: Message) -> float:
    """Return what a client's gradients are multiplied by before the step that a message belongs to."""
    head = message.head
    return float(head.ask_norms.scale if message.kind == "ask_norms" else head.step.scale)


def clip_of(message: Message) -> torch.Tensor | None:
    """Return what the gradients are multiplied by in the step that a message orders; None for nothing."""
    return message.tensors.get("clip_coefficient") if message.head.step.clips else None


def make_order(sharing: Sharing, steps: SharedSteps) -> ClientOrder:
    """Return the order of clients that settings ask for."""
    return (Turns if sharing.order == SEQUENTIAL else Together)(sharing.clients, steps)
