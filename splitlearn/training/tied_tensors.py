"""Ties whose ends are two tensors, as on two devices: they learn as the one tensor that the unsplit model has."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from splitlearn.model import Tie


def gather_gradients(ties: Iterable[Tie]) -> None:
    """Add the gradient of each borrowed end to that of its owner, which alone is stepped."""
    for tie in ties:
        owned, borrowed = tie.parameters
        if owned.grad is not None and borrowed.grad is not None:
            owned.grad += borrowed.grad.to(owned.device)
            borrowed.grad = None


@torch.no_grad()
def copy_to_borrowers(ties: Iterable[Tie]) -> None:
    """Copy each tie's owner to its borrowed end, so that both stay equal after a step."""
    for tie in ties:
        owned, borrowed = tie.parameters
        borrowed.copy_(owned)
