"""Lightning's search for a learning rate and for a batch size, before training begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psutil
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities.parsing import lightning_setattr

from splitlearn.naming import named

# Fraction of the memory that is free at the beginning which the search may use.
_SHARE_OF_FREE = 0.9


class FindLearningRate(LearningRateFinder):
    """Lightning's `LearningRateFinder`, whose rate the schedule then has as its peak; a resumed run keeps what was found.

    All trained parts take the same rate while it searches; afterwards a part with a rate of its own has that again.

    Args:
        **kwargs: as for Lightning's.
    """

    _found: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what was found."""
        return {} if self._found is None else {"learning_rate": self._found}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what was found before the checkpoint was written."""
        self._found = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("learning_rate", self._found)
        if self._found is not None:
            lightning_setattr(pl_module, "learning_rate", self._found)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, set ``learning_rate`` of the module and make optimizer and schedule anew.

        Raises:
            ValueError: the losses suggest none.
        """
        if trainer.ckpt_path is not None:
            return
        # However few batches an epoch has, the search may take all its steps.
        num_epochs, trainer.fit_loop.max_epochs = trainer.fit_loop.max_epochs, -1
        try:
            super().on_fit_start(trainer, pl_module)
        finally:
            trainer.fit_loop.max_epochs = num_epochs
        if self.optimal_lr is None:
            return
        suggestion = self.optimal_lr.suggestion()
        if suggestion is None:
            raise ValueError(
                f"no learning rate could be found between {self._min_lr:g} and {self._max_lr:g} in {self._num_training_steps} "
                f"steps; allow more with {named('num_training_steps')}"
            )
        self._found = suggestion
        # The schedule would go back to the rate that it began with.
        trainer.strategy.setup_optimizers(trainer)
        print(f"learning rate {suggestion:.2e}: where the loss falls fastest of {len(self.optimal_lr.results['lr'])} tried")


class FindBatchSize(BatchSizeFinder):
    """Lightning's `BatchSizeFinder`, before training only; a resumed run keeps what was found.

    Where all parts are on the CPU, it searches within the memory that is free: otherwise the system would end the process
    long before an allocation failed.

    Args:
        **kwargs: as for Lightning's.
    """

    _found: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what was found."""
        return {} if self._found is None else {"batch_size": self._found}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what was found before the checkpoint was written."""
        self._found = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("batch_size", self._found)
        if self._found is not None:
            lightning_setattr(pl_module, self._batch_arg_name, self._found)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, set ``batch_size`` of the data and make optimizer and schedule anew: an epoch has other steps now."""
        if trainer.ckpt_path is not None:
            return
        on_cpu = all(parameter.device.type == "cpu" for parameter in pl_module.parameters())
        with _within_free_memory() if on_cpu else nullcontext():
            super().on_fit_start(trainer, pl_module)
        self._found = self.optimal_batch_size
        trainer.strategy.setup_optimizers(trainer)
        print(f"batch size {self._found}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search for nothing: the size is that of training, and a search within a validation leaves the model in eval mode."""


@contextmanager
def _within_free_memory() -> Iterator[None]:
    """Have allocations fail that go beyond the free memory."""
    # Not on Windows.
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = psutil.Process().memory_info().data + int(psutil.virtual_memory().available * _SHARE_OF_FREE)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
