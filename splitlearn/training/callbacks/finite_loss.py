"""Stopping before a broken loss breaks the weights."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class DivergedError(ValueError):
    """The training loss is no longer a finite number."""


class FiniteLoss(Callback):
    """Ends a run at the first training loss that is not a finite number, before it reaches the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Look at the loss.

        Raises:
            DivergedError: it is infinite or not a number.
        """
        if not torch.isfinite(loss.detach()).all():
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            raise DivergedError(
                f"the training loss is {float(loss.detach())} at step {trainer.global_step} (learning rate {rate:.2g}); choose "
                "a smaller optimizer.learning_rate, a longer warm-up, or weights and precision with more digits"
            )
