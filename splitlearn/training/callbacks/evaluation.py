"""When the held-out loss is measured: after so many optimizer steps, and in any case where the run ends."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

# No batch has a number that this divides.
_NEVER = sys.maxsize


class Evaluation(Callback):
    """Has Lightning validate after every so many optimizer steps, and after the last step of the run.

    Lightning's own ``val_check_interval`` counts batches, and so misses the steps where batches are accumulated or an epoch
    ends in the middle of a step. Its loop asks ``trainer.val_check_batch`` after each batch whether to validate; this callback
    answers there. No step is validated twice.

    Args:
        every_n_steps: optimizer steps between two validations, which then take the place of those at the epochs' ends; None
            leaves it to the Trainer's settings.

    Attributes:
        last_step: the optimizer step after which the loss was last measured; None before the first time.
        last_figures: what was logged then, by name.

    Raises:
        ValueError: ``every_n_steps`` is no whole number of at least 1.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"eval_steps is {every_n_steps!r}; give a whole number of optimizer steps, or null")
        self._every_n_steps = every_n_steps
        self._usual: tuple[int | float | None, int | None] = (None, None)
        self._is_added = False
        self.last_step: int | None = None
        self.last_figures: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the last step that was validated."""
        return {"last_step": self.last_step, "last_figures": self.last_figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the last step that was validated."""
        self.last_step, self.last_figures = state_dict["last_step"], state_dict["last_figures"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the Trainer's own settings say."""
        if self._every_n_steps is not None:
            trainer.val_check_batch, trainer.check_val_every_n_epoch = _NEVER, 1
        self._usual = trainer.val_check_batch, trainer.check_val_every_n_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say whether a validation follows this batch."""
        loop = trainer.fit_loop.epoch_loop
        trainer.val_check_batch, trainer.check_val_every_n_epoch = self._usual
        step = trainer.global_step
        is_wanted = self._every_n_steps is not None and step % self._every_n_steps == 0
        is_new = step != self.last_step and not loop._should_accumulate()
        self._is_added = is_new and (is_wanted or _ends_run(trainer)) and not will_validate(trainer)
        if self._is_added:
            trainer.val_check_batch = trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was measured."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.last_step = trainer.global_step
        names = ("val_loss", "val_perplexity")
        self.last_figures = {name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the step of a validation that Lightning does not know of; it counts a step after the validation."""
        if self._is_added and trainer.validating and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] += 1


def will_validate(trainer: Trainer) -> bool:
    """Return whether a validation follows the batch that just ended."""
    # None before and after training only, when no batch ends.
    fetcher: Any = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def _ends_run(trainer: Trainer) -> bool:
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    max_epochs = trainer.max_epochs
    is_last_epoch = max_epochs is not None and 0 <= max_epochs <= trainer.current_epoch + 1
    return is_last_epoch and trainer.fit_loop.epoch_loop._num_ready_batches_reached()
