"""Gradients of microbatches that leave the top as soon as it has run each of them.

Autograd would run the top on all microbatches before it begins to go back, and a party that holds the trunk would wait until
then. So the top goes back alone after each microbatch, down to where its input was sent. What lies below waits for the backward
pass of the whole batch, and so do the answers of other parties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# The loss is multiplied and divided by the number of accumulated batches, which rounds.
_ROUNDING = 1e-3


@dataclass(eq=False)
class EarlyGradients:
    """What has come back of the microbatches of a batch so far.

    Args:
        parameters: those of the top that are trained.
    """

    parameters: Sequence[torch.Tensor]
    _sums: list[torch.Tensor | None] = field(init=False)
    # For each microbatch the scalars from which its backward pass goes on, with their gradients.
    _below: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._sums = [None] * len(self.parameters)

    def add(self, loss: torch.Tensor, origin: torch.Tensor | None, loss_term: torch.Tensor | None, weight: float) -> None:
        """Go back from the loss of a microbatch, through the top alone.

        Args:
            loss: a scalar.
            origin: the scalar at which the graph of whoever sent the top's input ends; None if there is none.
            loss_term: a scalar that the boundaries below add to the loss, for later; None for nothing.
            weight: how much it counts.
        """
        origins = [] if origin is None or not origin.requires_grad else [origin]
        below: list[tuple[torch.Tensor, torch.Tensor]] = []
        if loss.requires_grad and (origins or self.parameters):
            # As in Lightning's backward pass, to which autocast does not reach.
            with torch.autocast("cpu", enabled=False), torch.autocast(loss.device.type, enabled=False):
                gradients = torch.autograd.grad(loss, [*origins, *self.parameters], allow_unused=True)
            self._add_own(gradients[len(origins) :])
            # The gradient of the scalar is never used: it only connects the two graphs.
            below += [(sent, zero) for sent, zero in zip(origins, gradients[: len(origins)], strict=True) if zero is not None]
        if loss_term is not None and loss_term.requires_grad:
            below.append((loss_term, torch.full_like(loss_term, weight)))
        self._below.append(below)

    def loss(self, value: torch.Tensor) -> torch.Tensor:
        """Return the batch's loss, whose backward pass does what is left.

        Args:
            value: the sum of the microbatches' losses, a scalar.
        """
        anchor = torch.zeros((), requires_grad=True)
        loss: torch.Tensor = _GoOn.apply(self, value, anchor, *self.parameters)
        return loss

    def go_on(self) -> list[torch.Tensor | None]:
        """Go back below the top, microbatch by microbatch in their order, and return the gradients of the top's parameters."""
        waiting, self._below = self._below, []
        for below in waiting:
            if below:
                torch.autograd.backward([tensor for tensor, _ in below], [gradient for _, gradient in below])
        sums, self._sums = self._sums, [None] * len(self.parameters)
        return sums

    def _add_own(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for place, gradient in enumerate(gradients):
            own = self._sums[place]
            if gradient is not None:
                self._sums[place] = gradient if own is None else own.add_(gradient)


class _GoOn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, early: EarlyGradients, value: torch.Tensor, anchor: torch.Tensor, *parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.early = early
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        factor = float(gradient)
        if abs(factor - 1) > _ROUNDING:
            raise RuntimeError(
                f"the loss of microbatches is to count {factor:g} times, but their gradients were sent when it was made; scale "
                "it before, or use one microbatch"
            )
        return None, None, None, *ctx.early.go_on()
