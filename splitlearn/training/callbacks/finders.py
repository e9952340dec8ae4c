"""Lightning's search for a learning rate and for a batch size, before training begins."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psutil
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

# What the search leaves to others of the memory that is free when it begins.
_SHARE_OF_FREE = 0.9


class FindLearningRate(LearningRateFinder):
    """Lightning's `LearningRateFinder`, whose rate the schedule then has as its peak; a resumed run keeps the rate it has.

    All trained parts take the same rate while it searches; afterwards a part with a rate of its own has that again.

    Args:
        **kwargs: as for Lightning's.
    """

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
                "steps; allow more with callbacks.learning_rate_finder.num_training_steps"
            )
        # The schedule would go back to the rate that it began with.
        trainer.strategy.setup_optimizers(trainer)
        print(f"learning rate {suggestion:.2e}: where the loss falls fastest of {len(self.optimal_lr.results['lr'])} tried")


class FindBatchSize(BatchSizeFinder):
    """Lightning's `BatchSizeFinder`; a resumed run keeps the configured size.

    Where all parts are on the CPU, it searches within the memory that is free: otherwise the system would end the process
    long before an allocation failed.

    Args:
        **kwargs: as for Lightning's.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, set ``batch_size`` of the data and make optimizer and schedule anew: an epoch has other steps now."""
        if trainer.ckpt_path is not None:
            return
        on_cpu = all(parameter.device.type == "cpu" for parameter in pl_module.parameters())
        with _within_free_memory() if on_cpu else nullcontext():
            super().on_fit_start(trainer, pl_module)
        trainer.strategy.setup_optimizers(trainer)
        print(f"batch size {self.optimal_batch_size}")


@contextmanager
def _within_free_memory() -> Iterator[None]:
    """Have allocations fail that go beyond the free memory."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = psutil.Process().memory_info().data + int(psutil.virtual_memory().available * _SHARE_OF_FREE)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
