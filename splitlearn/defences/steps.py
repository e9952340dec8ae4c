"""Stepping and keeping whatever the defences of a run train themselves."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.defences.defences import Defences


class DefenceSteps(Callback):
    """Steps the defences with the model, logs what they measured, and keeps their state in checkpoints.

    Metrics: ``train_distance_correlation`` (NoPeek), ``train_divergence`` (MID), ``train_adversary_loss`` and
    ``train_adversary_accuracy`` (adversarial training).

    Args:
        defences: those of the module.
    """

    def __init__(self, defences: Defences) -> None:
        self._defences = defences

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Step them by the gradients of all batches of the model's step."""
        self._defences.step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what they measured."""
        figures = {name: figure.to(pl_module.device) for name, figure in self._defences.figures.items()}
        pl_module.log_dict(figures, batch_size=len(batch["input_ids"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the defences' state."""
        return self._defences.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the defences the state that they had."""
        self._defences.load_state_dict(state_dict)
