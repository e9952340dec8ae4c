"""The two halves of a crossing as autograd functions.

`send` ends the sender's graph and `receive` begins the receiver's. Between them lies a `Ticket`: activations go up in it, and
gradients come back. A scalar, the wire, connects the two halves in autograd, so that one ``backward`` of the loss drives both.
Only what the ticket holds passes from one half to the other, and both ways encoded, so the halves can run in two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from splitlearn.boundary.codecs import Columns


@dataclass(eq=False)
class Ticket:
    """Carries encoded tensors to the receiver, and their gradients back to the sender.

    Attributes:
        encoded: each tensor, encoded; empty once it was received.
        dtypes: the dtype to decode each tensor to.
        shapes: the shape of each tensor.
        needs_gradient: for each tensor whether the sender needs its gradient.
        devices: the device of each of the sender's tensors.
        gradients: the gradient of each tensor, encoded; None where there is none.
    """

    encoded: list[Columns] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    needs_gradient: list[bool] = field(default_factory=list)
    devices: list[torch.device] = field(default_factory=list)
    gradients: list[Columns | None] = field(default_factory=list)


# From a tensor's place in the ticket and the tensor to its encoding.
Encode = Callable[[int, torch.Tensor], Columns]
# From a tensor's place in the ticket, its encoding and its dtype to the tensor.
Decode = Callable[[int, Columns, torch.dtype], torch.Tensor]


def send(
    tensors: Sequence[torch.Tensor], encode: Encode, decode_gradient: Decode, settle: Callable[[torch.Tensor], None]
) -> tuple[Ticket, torch.Tensor]:
    """Send tensors.

    Args:
        tensors: floating-point tensors; the first gives the wire its device.
        encode: encodes a tensor.
        decode_gradient: decodes a gradient that has come back.
        settle: called with the gradient of the first tensor when it has come back; not called if there is none.

    Returns:
        The ticket and the wire, a scalar. The ticket does not hold the wire: autograd's graph would then refer to itself.
    """
    ticket = Ticket(needs_gradient=[tensor.requires_grad and torch.is_grad_enabled() for tensor in tensors])
    wire: torch.Tensor = _Send.apply(ticket, encode, decode_gradient, settle, *tensors)
    return ticket, wire


def receive(ticket: Ticket, wire: torch.Tensor, device: torch.device, decode: Decode, give_back: Encode) -> list[torch.Tensor]:
    """Receive the tensors of a ticket, once.

    Args:
        ticket: from `send`.
        wire: from `send`.
        device: where the tensors go.
        decode: decodes a tensor.
        give_back: encodes a gradient.

    Returns:
        The tensors in the order in which they were sent.
    """
    received: tuple[torch.Tensor, ...]
    received = _Receive.apply(wire, ticket, device, decode, give_back)
    return list(received)


def join(whole: Ticket, parts: tuple[Ticket, Ticket], wires: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Connect a ticket with the two whose tensors it has, those of the first before those of the second.

    Args:
        whole: the ticket; the gradients that come back in it are divided among the two.
        parts: the two.
        wires: of each of them.

    Returns:
        The wire of the ticket.
    """
    wire: torch.Tensor = _Join.apply(*wires, whole, *parts)
    return wire


# All are once_differentiable: gradients pass through the ticket, outside autograd, so second derivatives would be wrong.
class _Send(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ticket: Ticket,
        encode: Encode,
        decode_gradient: Decode,
        settle: Callable[[torch.Tensor], None],
        *tensors: torch.Tensor,
    ) -> Any:
        ctx.ticket, ctx.decode_gradient, ctx.settle = ticket, decode_gradient, settle
        ticket.encoded = [encode(place, tensor.detach()) for place, tensor in enumerate(tensors)]
        ticket.dtypes = [tensor.dtype for tensor in tensors]
        ticket.shapes = [tensor.shape for tensor in tensors]
        ticket.devices = [tensor.device for tensor in tensors]
        # The wire's value is never used: it only connects the two halves in autograd's graph.
        return tensors[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wire_gradient: torch.Tensor) -> Any:
        ticket: Ticket = ctx.ticket
        encoded, ticket.gradients = ticket.gradients, []
        gradients = [
            None if columns is None else _decode_gradient(ctx, place, columns) for place, columns in enumerate(encoded)
        ]
        if gradients[0] is not None:
            ctx.settle(gradients[0])
        return None, None, None, None, *gradients


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        wire: torch.Tensor,
        ticket: Ticket,
        device: torch.device,
        decode: Decode,
        give_back: Encode,
    ) -> Any:
        # Tensors that the receiver did not use have no gradient, and none is sent back for them.
        ctx.set_materialize_grads(False)
        ctx.ticket, ctx.give_back = ticket, give_back
        # Drop the encoded tensors from the ticket, so that they are freed as they are decoded.
        encoded, ticket.encoded = ticket.encoded, []
        received = []
        for place, (columns, dtype) in enumerate(zip(encoded, ticket.dtypes, strict=True)):
            columns = {name: column.to(device, non_blocking=device.type == "cuda") for name, column in columns.items()}
            received.append(decode(place, columns, dtype))
        ctx.mark_non_differentiable(
            *(tensor for tensor, needed in zip(received, ticket.needs_gradient, strict=True) if not needed)
        )
        return tuple(received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        ticket: Ticket = ctx.ticket
        ticket.gradients = [
            None if gradient is None else ctx.give_back(place, gradient) for place, gradient in enumerate(gradients)
        ]
        # The wire's gradient only triggers the sender's backward; the real gradients travel in the ticket.
        wire_gradient = torch.zeros((), dtype=ticket.dtypes[0], device=ticket.devices[0])
        return wire_gradient, None, None, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first_wire: torch.Tensor, second_wire: torch.Tensor, *tickets: Ticket) -> torch.Tensor:
        ctx.tickets, ctx.needed = tickets, (first_wire.requires_grad, second_wire.requires_grad)
        return first_wire.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wire_gradient: torch.Tensor) -> Any:
        whole, first, second = ctx.tickets
        gradients, whole.gradients = whole.gradients, []
        count = len(first.dtypes)
        first.gradients, second.gradients = gradients[:count], gradients[count:]
        return *(torch.zeros_like(wire_gradient) if needed else None for needed in ctx.needed), None, None, None


def _decode_gradient(ctx: Any, place: int, columns: Columns) -> torch.Tensor:
    device = ctx.ticket.devices[place]
    columns = {name: column.to(device) for name, column in columns.items()}
    decoded: torch.Tensor = ctx.decode_gradient(place, columns, ctx.ticket.dtypes[place])
    return decoded
