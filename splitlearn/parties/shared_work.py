"""The work of a part's holder whose part several clients train."""

from __future__ import annotations

from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.part_work import Answer, PartWork, Session
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import PreparedPart, ServedPart
from splitlearn.parties.wire import Message
from splitlearn.training import SharedSteps


class SharedWork(PartWork):
    """Carries out the messages of several clients. Each has gradients of its own until a step is taken with them.

    Steps themselves are taken by the order of the clients, once all that belongs to one has come; see `ClientOrder`.

    Args:
        served: the part.
        prepared: the part in this run.
        limits: what clients may ask for.
        steps: the part's steps.
    """

    def __init__(self, served: ServedPart, prepared: PreparedPart, limits: ServerLimits, steps: SharedSteps) -> None:
        super().__init__(served, prepared, limits)
        self._steps = steps

    def _backward(self, session: Session, message: Message) -> Answer:
        with self._steps.accumulating(session.client):
            return super()._backward(session, message)

    def _zero(self, session: Session, message: Message) -> Answer:
        self._steps.zero(session.client)
        return self._done()

    def _step(self, session: Session, message: Message) -> Answer:
        number = message.head.step.number
        if number != session.num_steps:
            raise PartyError(
                f"{session.client} orders step {number}, but has taken {session.num_steps} with the {self._served.name}",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        session.num_steps += 1
        return self._done()

    def _ask_state(self, session: Session, message: Message) -> Answer:
        with self._steps.accumulating(session.client):
            return super()._ask_state(session, message)

    def _load_state(self, session: Session, message: Message) -> Answer:
        raise PartyError(
            f"several clients train the {self._served.name}, so no checkpoint of {session.client}'s can be loaded into it; "
            "begin a new run",
            pb.ERROR_KIND_CHECKPOINT,
            is_final=True,
        )

    def _done(self) -> Answer:
        return pb.Head(done=pb.Done(num_steps=self._steps.num_steps)), {}
