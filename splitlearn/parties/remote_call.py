"""One call of a part that another process holds, and the autograd functions that send and receive it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from splitlearn.boundary import (
    Boundary,
    CallKind,
    Freight,
    Ticket,
    load,
    load_gradients,
    unload,
    unload_gradients,
    without_graph,
)
from splitlearn.model import TopRequest
from splitlearn.parties.cargo import (
    read_freight,
    read_gradients,
    read_results,
    write_encoded,
    write_gradients,
    write_places,
    write_result_gradients,
)
from splitlearn.parties.connection import Connection
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.parties.remote_owner import RemoteOwner
from splitlearn.parties.remote_session import RemoteSession
from splitlearn.parties.values import write_value

# Of a part's arguments: its holder has its own.
_OWN_ARGUMENTS = ("past_key_values", "use_cache", "device")


class RemoteCall:
    """One call of a part elsewhere, from its parcel to its gradient.

    Args:
        connection: a conversation with the holder.
        owner: who takes the part's steps.
        below: the ticket of the boundary below it.
        boundaries: those below and above the parts that the holder runs; None above the top.
        known: mask, positions and others, by argument name.
        arguments: plain arguments of the transformers model; in generation a session as ``past_key_values``.
        asked: the question to the holder of the top; None if the holder does not have it.
        is_training: whether the part draws dropout.
        part: the only part to run, as trials do; empty for all that the holder has.
    """

    # Set by `post`, `await_outputs` or `await_results`, `make_ticket` and `post_gradients`, in this order.
    _number: int
    _answer: Freight
    _results: dict[str, torch.Tensor]
    _needs_gradient: list[bool]
    _above: Ticket
    _backward: int

    def __init__(
        self,
        connection: Connection,
        owner: RemoteOwner,
        below: Ticket,
        boundaries: tuple[Boundary, Boundary | None],
        known: Mapping[str, Any],
        arguments: Mapping[str, Any],
        asked: TopRequest | None,
        is_training: bool,
        part: str,
    ) -> None:
        # Connects sending and receiving in autograd's graph, until the answer was received.
        self._link: torch.Tensor | None = None
        self._connection = connection
        self._owner = owner
        self._boundaries = boundaries
        self._known = known
        self._below = below
        self._message = self._write(arguments, asked, is_training, part)
        self._dropping: weakref.finalize[Any, Any] | None = None

    def _write(
        self, arguments: Mapping[str, Any], asked: TopRequest | None, is_training: bool, part: str
    ) -> tuple[pb.Head, dict[str, torch.Tensor]]:
        freight = unload(self._below, self._boundaries[0])
        tensors: dict[str, torch.Tensor] = {}
        plain = {name: value for name, value in arguments.items() if name not in _OWN_ARGUMENTS and value is not None}
        if asked is not None:
            plain |= {name: value for name, value in asked.arguments.items() if name != "labels" and value is not None}
        autocast = str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if torch.is_autocast_enabled("cpu") else ""
        told = pb.Forward(
            kind=self._below.kind.value,
            keeps_graph=torch.is_grad_enabled(),
            is_training=is_training,
            part=part,
            autocast=autocast,
            inputs=write_encoded(freight, tensors),
            layer_outputs=write_places(freight),
            context=write_value(dict(freight.context), tensors, "context"),
            arguments=write_value(plain, tensors, "arguments"),
        )
        if asked is not None and asked.labels_BT is not None:
            tensors["labels"] = asked.labels_BT
            told.has_labels, told.num_tokens = True, asked.divisor or 0
        session = arguments.get("past_key_values")
        if isinstance(session, RemoteSession):
            told.session, told.num_cached_tokens = session.number, session.num_cached_tokens
            session.num_cached_tokens += freight.shapes[0][1]
        return pb.Head(forward=told), tensors

    def begin(self) -> None:
        """Send the parcel, as a part of autograd's graph."""
        anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())
        self._link = _Send.apply(self._below.wire, anchor, self)

    def receive(self) -> Ticket:
        """Wait for the answer, and return a ticket for the boundary above the part."""
        link, self._link = self._link, None
        wire: torch.Tensor = _Receive.apply(link, self)
        return replace(self.make_ticket(wire), link=link)

    def finish(self) -> dict[str, torch.Tensor]:
        """Wait for the results of a top, and return them by name."""
        link, self._link = self._link, None
        names = self.await_results()
        return dict(zip(names, _ReceiveResults.apply(link, self), strict=True))

    def post(self) -> None:
        """Send the parcel."""
        head, tensors = self._message
        del self._message
        self._number = self._connection.post(head, tensors)
        if head.forward.keeps_graph:
            if self._below.kind is CallKind.TRAIN:
                self._owner.note_forward()
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
        answer, above = self._answer, self._boundaries[1]
        del self._answer
        if above is None:
            raise ValueError(f"{self._connection.party} has run the top, whose results `finish` returns")
        below = dict(self._below.layer_outputs)
        ticket = load(above, answer, self._below.kind, wire, self._known, below)
        # The ticket's own wire leads back to this call.
        self._above = without_graph(ticket)
        return ticket

    def await_results(self) -> list[str]:
        """Wait for the answer of a top, and return the names of its results."""
        message = self._connection.wait(self._number)
        heads = message.head.outputs.outputs
        self._results, self._needs_gradient = read_results(heads, message.tensors, self._connection.party)
        return list(self._results)

    def take_results(self) -> tuple[dict[str, torch.Tensor], list[bool]]:
        """Return the results of a top by name, once, and for each whether its gradient is needed."""
        results, needs = self._results, self._needs_gradient
        del self._results, self._needs_gradient
        return results, needs

    def post_gradients(self) -> None:
        """Send the gradients that the part above has given back."""
        tensors: dict[str, torch.Tensor] = {}
        self._post_backward(write_gradients(unload_gradients(self._above), tensors), tensors)

    def post_result_gradients(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Send the gradients of a top's results, by name."""
        tensors: dict[str, torch.Tensor] = {}
        self._post_backward(write_result_gradients(gradients, tensors), tensors)

    def _post_backward(self, gradients: list[pb.Encoded], tensors: dict[str, torch.Tensor]) -> None:
        if self._dropping is not None:
            self._dropping.detach()
        zeroes_first = self._owner.takes_zeroing()
        told = pb.Backward(forward=self._number, gradients=gradients, zeroes_first=zeroes_first)
        self._backward = self._connection.post(pb.Head(backward=told), tensors)
        if self._below.kind is CallKind.TRAIN:
            self._owner.note_backward()

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


class _ReceiveResults(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, link: torch.Tensor, call: RemoteCall) -> tuple[torch.Tensor, ...]:
        ctx.call = call
        # A result that nothing was made of has no gradient, and none is sent.
        ctx.set_materialize_grads(False)
        results, needs = call.take_results()
        ctx.names = list(results)
        ctx.mark_non_differentiable(*(tensor for tensor, needed in zip(results.values(), needs, strict=True) if not needed))
        return tuple(results.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        named = zip(ctx.names, gradients, strict=True)
        ctx.call.post_result_gradients({name: gradient for name, gradient in named if gradient is not None})
        return torch.zeros(()), None
