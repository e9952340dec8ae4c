"""A part that another process holds, where a part of this process would stand.

Its forward pass is two autograd functions. One sends the parcel, and later waits for its gradient. The other waits for the
answer, and later sends its gradient. Autograd runs them in reverse. So several parcels may be sent before the first answer is
awaited, and then all gradients are sent before the first one is awaited.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from splitlearn.boundary import (
    Boundary,
    CallKind,
    Freight,
    LayerOutputs,
    Parcel,
    Route,
    Ticket,
    load,
    load_gradients,
    unload,
    unload_gradients,
    without_graph,
)
from splitlearn.cut import PartSpec
from splitlearn.json_text import parse_json_object
from splitlearn.model import Blueprint, PartOutput
from splitlearn.parties.cargo import read_freight, read_gradients, write_encoded, write_gradients, write_places
from splitlearn.parties.connection import Connection
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.remote_owner import RemoteOwner
from splitlearn.parties.remote_session import RemoteSession
from splitlearn.parties.values import write_value

_CPU = torch.device("cpu")
# Of a part's arguments: its holder has its own.
_OWN_ARGUMENTS = ("past_key_values", "use_cache", "device")


class RemotePart(nn.Module):
    """Stands for a part that another process holds; see `PartElsewhere`. It has no parameters.

    Args:
        connection: a conversation with the holder, which has greeted this client.
        welcome: what the holder said in the beginning.
        spec: which part it is.
        blueprint: the unsplit model's structure, in the dtype of the part.

    Attributes:
        owner: who takes its steps.
        connection: the conversation.
        device: where it takes and returns tensors: the CPU.
    """

    is_elsewhere = True
    # What a part of this process knows of itself: it was not loaded, and is of no saved run.
    receipt = stamp = None

    def __init__(self, connection: Connection, welcome: pb.Welcome, spec: PartSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.connection = connection
        self.welcome = welcome
        self.spec = spec
        self.blueprint = blueprint
        self.owner = RemoteOwner(connection, welcome)
        self.device = _CPU
        self._generations = itertools.count(1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the part's parameters, at their holder."""
        return self.blueprint.dtype

    @property
    def loading(self) -> dict[str, Any]:
        """What loading the part has cost its holder, as its receipt has it."""
        return parse_json_object(self.welcome.receipt.encode(), f"the receipt of {self.connection.party}")

    @property
    def base_digest(self) -> str | None:
        """A digest of the part's weights in the base checkpoint; None if all of them are trained."""
        return self.welcome.plan.model_digest or None

    def forward(self, inputs: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """Return what the part makes of smashed data (B, T, D); see `run`."""
        output: torch.Tensor = self.run(inputs, **arguments).output
        return output

    def begin_session(self) -> RemoteSession:
        """Return an empty key-value cache that the holder keeps for one generation."""
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
        self, ticket: Ticket, boundaries: tuple[Boundary, Boundary], arguments: Mapping[str, Any], known: Mapping[str, Any]
    ) -> RemoteCall:
        """Send a parcel to the holder; several may be sent before the first is received.

        Args:
            ticket: from the boundary below the part.
            boundaries: those below and above it.
            arguments: plain arguments of the transformers model; in generation a session as ``past_key_values``.
            known: mask, positions and others, which this party has already, by argument name.

        Returns:
            A call for `receive`.
        """
        call = RemoteCall(self, ticket, boundaries, known, arguments)
        anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())
        call.link = _Send.apply(ticket.wire, anchor, call)
        return call

    def receive(self, call: RemoteCall) -> Ticket:
        """Wait for the answer to a parcel.

        Args:
            call: from `send`.

        Returns:
            A ticket for the boundary above the part.
        """
        link, call.link = call.link, None
        wire: torch.Tensor = _Receive.apply(link, call)
        return call.make_ticket(wire)

    def run(self, inputs: torch.Tensor, below: Mapping[str, LayerOutputs] | None = None, **arguments: Any) -> PartOutput:
        """Run the part past the boundaries, as trials do; see `SplitModel.run`.

        Args:
            inputs: smashed data of shape (B, T, D).
            below: recorded outputs of each part below.
            **arguments: mask, positions and plain arguments of the transformers model.
        """
        arguments.pop("device", None)
        mask, positions = arguments.pop("attention_mask", None), arguments.pop("position_ids", None)
        under, over = self._boundaries_of_trial()
        ticket = under.send(Parcel(inputs, mask, positions), CallKind.TRIAL)
        known = {"attention_mask": mask, "position_ids": positions}
        call = self.send(ticket, (under, over), arguments, {name: value for name, value in known.items() if value is not None})
        parcel, outputs = over.receive(self.receive(call), self.device)
        return PartOutput(parcel.hidden_BTD, outputs.get(self.spec.name, {}))

    def _boundaries_of_trial(self) -> tuple[Boundary, Boundary]:
        name = self.spec.name
        return Boundary(Route(1, sends_context=True)), Boundary(Route(2, layer_outputs_of={name: ()}))

    def extra_repr(self) -> str:
        """Return where the part is, for ``print``."""
        return f"{self.spec.name}, held by {self.connection.party}"


class RemoteCall:
    """One call of a part elsewhere, from its parcel to its gradient.

    Args:
        part: the part.
        below: the ticket of the boundary below it.
        boundaries: those below and above it.
        known: mask, positions and others, by argument name.
        arguments: plain arguments of the transformers model; in generation a session as ``past_key_values``.

    Attributes:
        link: the scalar that connects sending and receiving in autograd's graph, until the answer was received.
    """

    # Set by `post`, `await_outputs`, `make_ticket` and `post_gradients`, in this order.
    _number: int
    _answer: Freight
    _above: Ticket
    _backward: int

    def __init__(
        self,
        part: RemotePart,
        below: Ticket,
        boundaries: tuple[Boundary, Boundary],
        known: Mapping[str, Any],
        arguments: Mapping[str, Any],
    ) -> None:
        self.link: torch.Tensor | None = None
        self._part = part
        self._connection = part.connection
        self._boundaries = boundaries
        self._known = known
        self._below = below
        self._message = self._write(arguments)
        self._dropping: weakref.finalize[Any, Any] | None = None

    def _write(self, arguments: Mapping[str, Any]) -> tuple[pb.Head, dict[str, torch.Tensor]]:
        freight = unload(self._below, self._boundaries[0])
        tensors: dict[str, torch.Tensor] = {}
        plain = {name: value for name, value in arguments.items() if name not in _OWN_ARGUMENTS and value is not None}
        autocast = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if torch.is_autocast_enabled("cpu") else ""
        told = pb.Forward(
            kind=self._below.kind.value,
            keeps_graph=torch.is_grad_enabled(),
            is_training=self._part.training,
            autocast=autocast,
            inputs=write_encoded(freight, tensors),
            layer_outputs=write_places(freight),
            context=write_value(dict(freight.context), tensors, "context"),
            arguments=write_value(plain, tensors, "arguments"),
        )
        session = arguments.get("past_key_values")
        if isinstance(session, RemoteSession):
            told.session, told.num_cached_tokens = session.number, session.num_cached_tokens
            session.num_cached_tokens += freight.shapes[0][1]
        return pb.Head(forward=told), tensors

    def post(self) -> None:
        """Send the parcel."""
        head, tensors = self._message
        del self._message
        self._number = self._connection.post(head, tensors)
        if head.forward.keeps_graph:
            # If the output is let go of, the holder may let go of its graph.
            self._dropping = weakref.finalize(self, self._connection.drop, self._number)
            self._dropping.atexit = False

    def await_outputs(self) -> Freight:
        """Wait for the answer, and return what is in it."""
        message = self._connection.wait(self._number)
        told = message.head.outputs
        self._answer = read_freight(told.outputs, told.layer_outputs, message.tensors, self._connection.party)
        return self._answer

    def make_ticket(self, wire: torch.Tensor) -> Ticket:
        """Return a ticket for the boundary above the part, of what the holder has answered."""
        answer = self._answer
        del self._answer
        below = dict(self._below.layer_outputs)
        ticket = load(self._boundaries[1], answer, self._below.kind, wire, self._known, below)
        # The ticket's own wire leads back to this call.
        self._above = without_graph(ticket)
        return ticket

    def post_gradients(self) -> None:
        """Send the gradients that the part above has given back."""
        if self._dropping is not None:
            self._dropping.detach()
        tensors: dict[str, torch.Tensor] = {}
        told = pb.Backward(
            forward=self._number,
            gradients=write_gradients(unload_gradients(self._above), tensors),
            zeroes_first=self._part.owner.takes_zeroing(),
        )
        self._backward = self._connection.post(pb.Head(backward=told), tensors)

    def await_gradients(self) -> None:
        """Wait for the gradients of the part's input, and give them to the boundary below."""
        answer = self._connection.wait(self._backward)
        count = len(self._below.ways)
        gradients = read_gradients(answer.head.gradients.gradients, answer.tensors, count, self._connection.party)
        load_gradients(self._boundaries[0], self._below, gradients)


# The scalars between the functions are never used: they only connect the functions in autograd's graph.
class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wire: torch.Tensor, anchor: torch.Tensor, call: RemoteCall) -> torch.Tensor:
        ctx.call, ctx.dtype, ctx.device = call, wire.dtype, wire.device
        call.post()
        return torch.zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, link_gradient: torch.Tensor) -> Any:
        ctx.call.await_gradients()
        return torch.zeros((), dtype=ctx.dtype, device=ctx.device), None, None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, link: torch.Tensor, call: RemoteCall) -> torch.Tensor:
        ctx.call = call
        answer = call.await_outputs()
        wire = torch.zeros((), dtype=answer.dtypes[0])
        if not any(answer.needs_gradient):
            ctx.mark_non_differentiable(wire)
        return wire

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wire_gradient: torch.Tensor) -> Any:
        ctx.call.post_gradients()
        return torch.zeros(()), None
