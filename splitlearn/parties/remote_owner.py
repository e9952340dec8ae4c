"""The steps of a part that another process holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from splitlearn.boundary import BoundaryCodecs
from splitlearn.parties.connection import Connection, ask
from splitlearn.parties.part_state import GRADIENTS, STATE
from splitlearn.parties.pieces import Gathered, divide
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.values import read_value, write_value
from splitlearn.training import CODECS_KEY, GENERATORS_KEY, StepOrder

# The holder decides what its part needs.
_ANY_SIZE = 1 << 62


class RemoteOwner:
    """Orders the steps of a part from its holder.

    Steps are ordered without waiting: whatever goes wrong with one is told by the next answer that is waited for.

    Args:
        connection: a conversation with the holder.
        welcome: what it said in the beginning.
        parts: the names of the parts that it holds.
        codecs: those of the run.

    Attributes:
        state_bytes: bytes of states, for checkpoints, that have been sent and received.
    """

    def __init__(self, connection: Connection, welcome: pb.Welcome, parts: Collection[str], codecs: BoundaryCodecs) -> None:
        self._connection = connection
        self._groups = list(welcome.groups)
        self._limits = welcome.limits
        self._parts, self._codecs = parts, codecs
        self._has_zeroed = False
        # The scale with which to ask for the norms once no forward call waits for its backward pass; None does not ask.
        self._expected_scale: float | None = None
        # How many forward calls for training wait for their backward pass.
        self._num_waiting = 0
        # The number of the question for the norms, if it followed the last backward pass.
        self._asked: int | None = None
        self.state_bytes = 0

    def group_settings(self) -> list[dict[str, Any]]:
        """Return ``name``, ``lr`` and ``weight_decay`` of each parameter group, in order."""
        return [{"name": group.name, "lr": group.learning_rate, "weight_decay": group.weight_decay} for group in self._groups]

    def trained_names(self) -> set[str]:
        """Return the unsplit model's names of the tensors that are trained."""
        return {name for group in self._groups for name in group.tensors}

    def zero_gradients(self) -> None:
        """Forget the gradients; the holder is told with the next backward pass."""
        self._has_zeroed = True

    def takes_zeroing(self) -> bool:
        """Whether the next message must tell the holder to forget its gradients, once."""
        has_zeroed, self._has_zeroed = self._has_zeroed, False
        return has_zeroed

    def expect_norms(self, scale: float | None) -> None:
        """Have the question for the norms follow the last gradient of the coming backward pass; None takes that back."""
        self._expected_scale, self._num_waiting, self._asked = scale, 0, None

    def note_forward(self) -> None:
        """Know that a forward call for training was sent, whose gradient will be."""
        self._num_waiting += 1

    def note_backward(self) -> None:
        """Know that the gradient of a forward call for training was sent."""
        self._num_waiting -= 1
        if self._asked is not None:
            raise RuntimeError("a backward pass follows the question for the norms of its step, which its gradients belong to")
        if self._expected_scale is not None and self._num_waiting == 0:
            self._asked = self._connection.post(_question(self._expected_scale))
            self._expected_scale = None

    def gradient_norms(self, scale: float) -> dict[str, dict[str, torch.Tensor]]:
        """Have the gradients scaled by ``scale``, once a step, and return the norm of each, as scalars."""
        self._tell_zeroing()
        asked, self._asked, self._expected_scale = self._asked, None, None
        answer = self._connection.wait(self._connection.post(_question(scale)) if asked is None else asked)
        tensors = {group.name: list(group.tensors) for group in self._groups}
        norms: dict[str, dict[str, torch.Tensor]] = {}
        for group in answer.head.norms.groups:
            own = [] if group.is_empty else list(answer.tensors[f"norms/{group.name}"])
            names = [tensors[group.name][place] for place in group.positions]
            norms[group.name] = dict(zip(names, own, strict=True))
        return norms

    def apply(self, order: StepOrder) -> None:
        """Order a step."""
        self._tell_zeroing()
        groups = [pb.GroupOrder(name=group.name, learning_rate=order.learning_rates[group.name]) for group in self._groups]
        clip = order.clip_coefficient
        step = pb.Step(number=order.number, groups=groups, scale=order.scale, clips=clip is not None)
        self._connection.post(pb.Head(step=step), {} if clip is None else {"clip_coefficient": clip})

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients of a step that is under way, under the unsplit model's names."""
        self._tell_zeroing()
        return dict(self._state(GRADIENTS))

    def load_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Go on with a step from what `gradients` returned; gradients of other parts are passed over."""
        names = self.trained_names()
        self._load(GRADIENTS, {name: gradient for name, gradient in gradients.items() if name in names})

    def state(self) -> dict[str, Any]:
        """Return trained tensors and optimizer state under the unsplit model's names, and that of random numbers and codecs."""
        return dict(self._state(STATE))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        # The holder knows the seeds of what it draws from, and no other.
        generators = {"seed": 0, "states": state[GENERATORS_KEY]["states"]}
        share = self._codecs.share_of(self._parts, state[CODECS_KEY])
        self._load(STATE, {**state, GENERATORS_KEY: generators, CODECS_KEY: share})

    def _tell_zeroing(self) -> None:
        if self.takes_zeroing():
            self._connection.post(pb.Head(zero_gradients=pb.ZeroGradients()))

    def _state(self, what: str) -> Any:
        gathered, value, num_pieces = Gathered(_ANY_SIZE, self._connection.party), pb.Value(), 1
        while gathered.num_pieces < num_pieces:
            answer = ask(self._connection, pb.Head(ask_state=pb.AskState(what=what, piece=gathered.num_pieces)))
            told = answer.head.state
            value, num_pieces = (told.value, told.num_pieces) if gathered.num_pieces == 0 else (value, num_pieces)
            gathered.add(answer.tensors, told.divided)
            self.state_bytes += answer.num_bytes
        return read_value(value, gathered.all(), self._connection.party)

    def _load(self, what: str, content: Any) -> None:
        tensors: dict[str, torch.Tensor] = {}
        value = write_value(content, tensors)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if num_bytes > self._limits.max_state_bytes:
            raise ValueError(
                f"the state to go on from has {num_bytes:,} bytes, and {self._connection.party} takes at most "
                f"{self._limits.max_state_bytes:,}; have its holder raise limits.state_mib"
            )
        self.state_bytes += num_bytes
        pieces = divide(tensors, self._limits.max_message_bytes, self._limits.max_tensors)
        for number, piece in enumerate(pieces):
            told = pb.LoadState(what=what, piece=number, num_pieces=len(pieces), divided=piece.divided)
            if number == len(pieces) - 1:
                told.value.CopyFrom(value)
            ask(self._connection, pb.Head(load_state=told), piece.tensors)


def _question(scale: float) -> pb.Head:
    return pb.Head(ask_norms=pb.AskNorms(scale=scale))
