"""The last state of a run in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

LAST = "last.ckpt"


class LastCheckpoint(ModelCheckpoint):
    """Keeps the last state as ``last.ckpt``: written at the end of each epoch and of the run, in place of the one before.

    Args:
        dirpath: the folder.
        every_n_train_steps: write it after every so many optimizer steps, too; None does not.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int | None = None) -> None:
        if every_n_train_steps is not None and (type(every_n_train_steps) is not int or every_n_train_steps < 1):
            raise ValueError(
                f"callbacks.last_checkpoint.every_n_train_steps is {every_n_train_steps!r}; give a whole number, or null"
            )
        # A run that goes on overwrites what it began from: otherwise there would be two that call themselves the last.
        super().__init__(
            dirpath, save_last=True, save_top_k=0, every_n_train_steps=every_n_train_steps, enable_version_counter=False
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it after so many steps; at an epoch's last its end comes at once, after the validation."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless this step's is there already."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write nothing: the epoch's end, or the next step, follows."""
