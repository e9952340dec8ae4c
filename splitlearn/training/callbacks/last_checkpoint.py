"""The last state of a run in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from splitlearn.naming import named
from splitlearn.training.callbacks.evaluation import will_validate

LAST = "last.ckpt"


class LastCheckpoint(ModelCheckpoint):
    """Keeps the last state as ``last.ckpt``: written at the end of each epoch and of the run, in place of the one before.

    Args:
        dirpath: the folder.
        every_n_train_steps: write it after every so many optimizer steps, too; None does not.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int | None = None) -> None:
        if every_n_train_steps is not None and (type(every_n_train_steps) is not int or every_n_train_steps < 1):
            raise ValueError(f"{named('every_n_train_steps')} is {every_n_train_steps!r}; give a whole number, or null")
        # A run that goes on overwrites what it began from: otherwise there would be two that call themselves the last.
        super().__init__(
            dirpath, save_last=True, save_top_k=0, every_n_train_steps=every_n_train_steps, enable_version_counter=False
        )
        self._waits_for_validation = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write it after so many steps; where a validation or the epoch's end comes at once, after that."""
        loop = trainer.fit_loop.epoch_loop
        is_last_batch = loop.batch_progress.is_last_batch
        self._waits_for_validation = not is_last_batch and not loop._is_training_done and will_validate(trainer)
        if not is_last_batch and not self._waits_for_validation:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless this step's is there already."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what waited for the validation; after an epoch's last batch its end follows."""
        if self._waits_for_validation and self._every_n_train_steps and trainer.global_step % self._every_n_train_steps == 0:
            self.on_train_epoch_end(trainer, pl_module)
        self._waits_for_validation = False
