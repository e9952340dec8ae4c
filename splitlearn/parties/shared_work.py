"""The work of a part's holder whose part several clients train."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from splitlearn.boundary import codec_states
from splitlearn.parties.errors import PartyError
from splitlearn.parties.forward_checks import ServerLimits
from splitlearn.parties.part_state import STATE, checked_generators, read_state
from splitlearn.parties.part_work import Answer, PartWork, Session
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.served_part import PreparedPart, ServedPart
from splitlearn.parties.values import read_value, write_value
from splitlearn.parties.wire import Message
from splitlearn.randomness import NamedGenerators
from splitlearn.training import CODECS_KEY, GENERATORS_KEY, SharedSteps


class SharedWork(PartWork):
    """Carries out the messages of several clients. Each has gradients of its own until a step is taken with them.

    Steps themselves are taken by the order of the clients, once all that belongs to one has come; see `ClientOrder`.

    Args:
        served: the part.
        prepared: the part in this run.
        limits: what clients may ask for.
        steps: the part's steps.
    """

    _is_shared = True

    def __init__(self, served: ServedPart, prepared: PreparedPart, limits: ServerLimits, steps: SharedSteps) -> None:
        super().__init__(served, prepared, limits)
        self._steps = steps
        # The step from which clients go on; None as long as none does.
        self._begun_at: int | None = None

    def _backward(self, session: Session, message: Message) -> Answer:
        with self._steps.accumulating(session.client):
            return super()._backward(session, message)

    def _zero(self, session: Session, message: Message) -> Answer:
        self._steps.zero(session.client)
        return self._done()

    def _step(self, session: Session, message: Message) -> Answer:
        number = message.head.step.number
        if session.num_steps is None:
            # It goes on from a checkpoint.
            session.num_steps = number
        if number != session.num_steps:
            raise PartyError(
                f"{session.client} orders step {number}, but has taken {session.num_steps} with the {self._served.name}",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        session.num_steps += 1
        return self._done()

    def _write_state(self, session: Session, what: str, tensors: dict[str, torch.Tensor]) -> pb.Value:
        with self._steps.accumulating(session.client):
            if what != STATE:
                return super()._write_state(session, what, tensors)
            state = self._prepared.owner.state()
            state |= {
                GENERATORS_KEY: generators_of(session).state(),
                CODECS_KEY: codec_states((session.boundaries or {}).values()),
            }
            return write_value(state, tensors)

    def _read_state(self, session: Session, told: pb.LoadState, tensors: Mapping[str, torch.Tensor]) -> None:
        with self._steps.accumulating(session.client):
            if told.what != STATE:
                super()._read_state(session, told, tensors)
                return
        content = read_value(told.value, tensors, session.client)
        num_steps = content.get("num_steps") if isinstance(content, dict) else None
        if not isinstance(num_steps, int):
            raise PartyError(f"{session.client} sent what is no state of the {self._served.name}")
        if self._begun_at is None and self._steps.num_steps == 0:
            # The first to go on brings the part with it; the others' states are of the same steps.
            read_state(self._prepared.owner, STATE, told.value, tensors, session.client)
            self._steps.go_on_from(num_steps)
            self._begun_at = num_steps
        elif not (self._begun_at or 0) <= num_steps <= self._steps.num_steps:
            raise PartyError(
                f"{session.client} goes on from step {num_steps} of the {self._served.name}, which has taken "
                f"{self._steps.num_steps} by now: have all clients go on from checkpoints of the same step",
                pb.ERROR_KIND_STEP,
                is_final=True,
            )
        generators = generators_of(session)
        states = checked_generators(content.get(GENERATORS_KEY), session.client)
        generators.load_state({**generators.state(), "states": states})
        for boundary in (session.boundaries or {}).values():
            boundary.load_codec_states(content.get(CODECS_KEY) or {})
        session.num_steps = None

    def _done(self) -> Answer:
        return pb.Head(done=pb.Done(num_steps=self._steps.num_steps)), {}


def generators_of(session: Session) -> NamedGenerators:
    """Return what is drawn from for a client."""
    return session.generators or NamedGenerators(0)
