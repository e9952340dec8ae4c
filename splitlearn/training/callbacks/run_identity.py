"""Which run a checkpoint is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.runs import mark_checkpoint


class RunIdentity(Callback):
    """Writes into checkpoints which run they are of.

    Args:
        run_id: of this start of the run.
        earlier_starts: the ids of the run's starts before this one, the first one first.
    """

    def __init__(self, run_id: str, earlier_starts: Sequence[str] = ()) -> None:
        self._run_id, self._earlier_starts = run_id, earlier_starts

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the ids."""
        mark_checkpoint(checkpoint, self._run_id, self._earlier_starts)
