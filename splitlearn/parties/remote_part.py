"""A part that another process holds, where a part of this process would stand.

Its forward pass is two autograd functions. One sends the parcel, and later waits for its gradient. The other waits for the
answer, and later sends its gradient. Autograd runs them in reverse. So several parcels may be sent before the first answer is
awaited, and then all gradients are sent before the first one is awaited.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from splitlearn.boundary import Boundary, CallKind, LayerOutputs, Parcel, Ticket
from splitlearn.cut import PartSpec
from splitlearn.json_text import parse_json_object
from splitlearn.model import Blueprint, GenerationSession, PartOutput, TopRequest
from splitlearn.parties.connection import Connection
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.remote_call import RemoteCall
from splitlearn.parties.remote_owner import RemoteOwner
from splitlearn.parties.remote_session import RemoteSession, SharedSession
from splitlearn.parties.served_part import boundaries_of_trial
from splitlearn.training import TopLosses

_CPU = torch.device("cpu")


class RemotePart(nn.Module):
    """Stands for a part that another process holds; see `PartElsewhere`. It has no parameters.

    Args:
        connection: a conversation with the holder, which has greeted this client.
        welcome: what the holder said in the beginning.
        spec: which part it is.
        blueprint: the unsplit model's structure, in the dtype of the part.
        owner: who takes its steps; the same for all parts of one holder.
        digest: of the part's weights in the base checkpoint; None if all of them are trained.
        begins_sessions: whether it is the part of its holder that begins sessions; others share its sessions.

    Attributes:
        owner: who takes its steps.
        base_digest: of the part's weights in the base checkpoint; None if all of them are trained.
        connection: the conversation.
        device: where it takes and returns tensors: the CPU.
    """

    is_elsewhere = True
    # What a part of this process knows of itself: it was not loaded, and is of no saved run.
    receipt = stamp = None

    def __init__(
        self,
        connection: Connection,
        welcome: pb.Welcome,
        spec: PartSpec,
        blueprint: Blueprint,
        owner: RemoteOwner,
        digest: str | None = None,
        begins_sessions: bool = True,
    ) -> None:
        super().__init__()
        self.connection = connection
        self.welcome = welcome
        self.spec = spec
        self.blueprint = blueprint
        self.owner = owner
        self.base_digest = digest
        self._begins_sessions = begins_sessions
        self.device = _CPU
        self._generations = itertools.count(1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the part's parameters, at their holder."""
        return self.blueprint.dtype

    @property
    def waited_seconds(self) -> float:
        """How long this process has waited for the holder so far."""
        return self.connection.waited_seconds

    @property
    def computed_seconds(self) -> float:
        """How long the holder has computed so far, as it says itself."""
        return self.connection.server_seconds

    @property
    def loading(self) -> dict[str, Any]:
        """What loading the part has cost its holder, as its receipt has it."""
        return parse_json_object(self.welcome.receipt.encode(), f"the receipt of {self.connection.party}")

    @property
    def config(self) -> PreTrainedConfig:
        """The unsplit model's configuration."""
        return self.blueprint.config

    def forward(self, inputs: torch.Tensor, **arguments: Any) -> Any:
        """Return what the part makes of smashed data (B, T, D); see `run`."""
        return self.run(inputs, **arguments).output

    def begin_session(self) -> GenerationSession:
        """Return an empty key-value cache that the holder keeps for one generation."""
        if not self._begins_sessions:
            return SharedSession()
        return RemoteSession(self.connection, next(self._generations))

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to write a file without weights.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"the {self.spec.name} is held by {self.connection.party} and has no weights here; its holder saves it in its own "
            "checkpoints"
        )

    def send(
        self,
        ticket: Ticket,
        boundaries: tuple[Boundary, Boundary | None],
        arguments: Mapping[str, Any],
        known: Mapping[str, Any],
        asked: TopRequest | None = None,
        *,
        alone: bool = False,
    ) -> RemoteCall:
        """Send a parcel to the holder; several may be sent before the first is received.

        Args:
            ticket: from the boundary below the part.
            boundaries: those below and above the parts that the holder runs; None above the top.
            arguments: plain arguments of the transformers model; in generation a session as ``past_key_values``.
            known: mask, positions and others, which this party has already, by argument name.
            asked: the question to the holder of the top; None if the holder does not have it.
            alone: have this part alone be run, as trials do.

        Returns:
            A call for `receive`, or for `finish` if the holder has the top.
        """
        alone_part = self.spec.name if alone else ""
        beside = (ticket, boundaries, known, arguments, asked)
        call = RemoteCall(self.connection, self.owner, *beside, self.training, alone_part)
        call.begin()
        return call

    def receive(self, call: RemoteCall) -> Ticket:
        """Wait for the answer to a parcel.

        Args:
            call: from `send`.

        Returns:
            A ticket for the boundary above the part.
        """
        return call.receive()

    def finish(self, call: RemoteCall) -> TopLosses | CausalLMOutputWithPast:
        """Wait for the results of the top.

        Args:
            call: from `send`.

        Returns:
            The losses if a divisor was given, else transformers' output.
        """
        results = call.finish()
        if "text" in results:
            return TopLosses(results["text"], results.get("router"))
        return CausalLMOutputWithPast(loss=results.get("loss"), logits=results["logits"])

    def run(self, inputs: torch.Tensor, below: Mapping[str, LayerOutputs] | None = None, **arguments: Any) -> PartOutput:
        """Run the part past the boundaries, as trials do; see `SplitModel.run`.

        Args:
            inputs: smashed data of shape (B, T, D).
            below: recorded outputs of each part below.
            **arguments: mask, positions and plain arguments of the transformers model.
        """
        arguments.pop("device", None)
        mask, positions = arguments.pop("attention_mask", None), arguments.pop("position_ids", None)
        under, over = boundaries_of_trial(self.spec.name)
        ticket = under.send(Parcel(inputs, mask, positions), CallKind.TRIAL)
        known = {"attention_mask": mask, "position_ids": positions}
        present = {name: value for name, value in known.items() if value is not None}
        asked = TopRequest(None, None, {}) if over is None else None
        call = self.send(ticket, (under, over), arguments, present, asked, alone=True)
        if over is None:
            return PartOutput(self.finish(call))
        parcel, outputs = over.receive(self.receive(call), self.device)
        return PartOutput(parcel.hidden_BTD, outputs.get(self.spec.name, {}))

    def extra_repr(self) -> str:
        """Return where the part is, for ``print``."""
        return f"{self.spec.name}, held by {self.connection.party}"
