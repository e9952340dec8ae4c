"""Watching what passes a boundary.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.parcel import Parcel


class BoundaryObserver:
    """Sees what is sent, received and given back at a cut; override what you need.

    Attach it with ``boundary.observers.append(observer)``. The tensors are detached, and those that are passed on: do not write
    to them. Random numbers are drawn from `Boundary.generator`. Trials, and cuts inside one party, are not shown.
    """

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        """See a parcel as the part below gave it, before it is encoded."""

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        """See a parcel as the part above gets it."""

    def on_send_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        """See the gradient of the received smashed data, before it is encoded."""

    def on_receive_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        """See the gradient as the part below gets it."""

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        """Return a scalar to add to the training loss, differentiable in the smashed data about to be sent, or None."""
        return None
