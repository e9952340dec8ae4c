"""Watching the parcels and gradients that pass a boundary.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import torch

from splitlearn.boundary.calls import CallKind
from splitlearn.boundary.parcel import Parcel


class BoundaryObserver:
    """Is shown parcels and gradients at a cut; override the methods you need.

    Attach it with ``boundary.observers.append(observer)``. The tensors are detached, but share memory with those that are
    passed on: do not write to them. Random numbers are drawn from `Boundary.generator`. Trials, and cuts inside one party, are
    not shown.
    """

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        """See a parcel as the part below gave it, before it is encoded.

        Args:
            cut: 1 or 2.
            kind: purpose of the call.
            parcel: smashed data (B, T, D), mask and positions.
        """

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        """See a parcel as the part above gets it.

        Args:
            cut: 1 or 2.
            kind: purpose of the call.
            parcel: smashed data (B, T, D), mask and positions.
        """

    def on_send_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        """See the gradient of the received smashed data, before it is encoded.

        Args:
            cut: 1 or 2.
            gradient_BTD: the gradient, shape (B, T, D).
        """

    def on_receive_gradient(self, cut: int, gradient_BTD: torch.Tensor) -> None:
        """See the gradient as the part below gets it.

        Args:
            cut: 1 or 2.
            gradient_BTD: the gradient, shape (B, T, D).
        """

    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        """Return a scalar to add to the training loss, or None.

        Args:
            cut: 1 or 2.
            hidden_BTD: the smashed data about to be sent, shape (B, T, D); the scalar is differentiable in them.
        """
        return None
