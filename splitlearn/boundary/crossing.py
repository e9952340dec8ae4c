"""The two halves of a crossing as autograd functions.

`send` ends the sender's graph and `receive` begins the receiver's. Between them lies a `Ticket`: activations go up in it, and
gradients come back. A scalar, the wire, connects the two halves in autograd, so that one ``backward`` of the loss drives both.
Nothing but the ticket passes from one half to the other, so they may as well run in two processes.
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
    """One sending that has not been received yet, and after that the way back for its gradients.

    Attributes:
        encoded: each tensor as it crosses.
        dtypes: what they are decoded to.
        needs_gradient: which of them the sender wants a gradient of.
        devices: where the sender's tensors live.
        gradients: what came back, as the sender gets it.
    """

    encoded: list[Columns] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    needs_gradient: list[bool] = field(default_factory=list)
    devices: list[torch.device] = field(default_factory=list)
    gradients: list[torch.Tensor | None] = field(default_factory=list)


# From a tensor's place in the ticket and the tensor to how it crosses.
Encode = Callable[[int, torch.Tensor], Columns]
# From what crossed and the dtype to decode to.
Decode = Callable[[Columns, torch.dtype], torch.Tensor]


def send(
    tensors: Sequence[torch.Tensor], encode: Encode, settle: Callable[[torch.Tensor], None]
) -> tuple[Ticket, torch.Tensor]:
    """Send tensors.

    Args:
        tensors: floating-point tensors; the first gives the wire its device.
        encode: writes a tensor down as it crosses.
        settle: is shown the gradient of the first tensor when it has come back; not called if there is none.

    Returns:
        The ticket and the wire. The ticket does not hold the wire: autograd's graph would then hold itself.
    """
    ticket = Ticket(needs_gradient=[tensor.requires_grad and torch.is_grad_enabled() for tensor in tensors])
    wire: torch.Tensor = _Send.apply(ticket, encode, settle, *tensors)
    return ticket, wire


def receive(
    ticket: Ticket, wire: torch.Tensor, device: torch.device, decode: Decode, give_back: Encode, decode_gradient: Decode
) -> list[torch.Tensor]:
    """Receive what was sent with a ticket; a ticket is good for once.

    Args:
        ticket: from `send`.
        wire: from `send`.
        device: where the tensors go.
        decode: reads a tensor from what crossed.
        give_back: writes a gradient down as it crosses.
        decode_gradient: reads it again.
    """
    received: tuple[torch.Tensor, ...]
    received = _Receive.apply(wire, ticket, device, decode, give_back, decode_gradient)
    return list(received)


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ticket: Ticket, encode: Encode, settle: Callable[[torch.Tensor], None], *tensors: torch.Tensor
    ) -> Any:
        ctx.ticket, ctx.settle = ticket, settle
        ticket.encoded = [encode(place, tensor.detach()) for place, tensor in enumerate(tensors)]
        ticket.dtypes = [tensor.dtype for tensor in tensors]
        ticket.devices = [tensor.device for tensor in tensors]
        return tensors[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wire_gradient: torch.Tensor) -> Any:
        gradients, ctx.ticket.gradients = ctx.ticket.gradients, []
        if gradients[0] is not None:
            ctx.settle(gradients[0])
        return None, None, None, *gradients


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        wire: torch.Tensor,
        ticket: Ticket,
        device: torch.device,
        decode: Decode,
        give_back: Encode,
        decode_gradient: Decode,
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.ticket, ctx.give_back, ctx.decode_gradient = ticket, give_back, decode_gradient
        # Nothing that crossed is kept longer than it takes to read it.
        encoded, ticket.encoded = ticket.encoded, []
        received = []
        for columns, dtype in zip(encoded, ticket.dtypes, strict=True):
            columns = {name: column.to(device, non_blocking=device.type == "cuda") for name, column in columns.items()}
            received.append(decode(columns, dtype))
        ctx.mark_non_differentiable(*(one for one, needed in zip(received, ticket.needs_gradient, strict=True) if not needed))
        return tuple(received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        ticket: Ticket = ctx.ticket
        ticket.gradients = [
            None if gradient is None else _return(ctx, place, gradient) for place, gradient in enumerate(gradients)
        ]
        wire_gradient = torch.zeros((), dtype=ticket.dtypes[0], device=ticket.devices[0])
        return wire_gradient, None, None, None, None, None


def _return(ctx: Any, place: int, gradient: torch.Tensor) -> torch.Tensor:
    device = ctx.ticket.devices[place]
    columns = {name: column.to(device) for name, column in ctx.give_back(place, gradient).items()}
    decoded: torch.Tensor = ctx.decode_gradient(columns, gradient.dtype)
    return decoded
