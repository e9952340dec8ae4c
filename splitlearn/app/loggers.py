"""Runs of logging services end with the training run that began them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger


@contextmanager
def ending_logged_runs(trainer: Trainer) -> Iterator[None]:
    """End the Weights & Biases run that the trainer's logger begins within, as failed if an error comes through.

    By itself it ends with the process. Then a process that trains twice would put both runs into one, and a process that is
    forked for one run would leave nothing of it. A run that somebody else has begun goes on.

    Args:
        trainer: its loggers log the run.
    """
    before = _wandb_run()
    try:
        yield
    except BaseException:
        _end(trainer, before, 1)
        raise
    _end(trainer, before, 0)


def _end(trainer: Trainer, before: Any, exit_code: int) -> None:
    run = _wandb_run()
    if run is not None and run is not before and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        run.finish(exit_code=exit_code)


def _wandb_run() -> Any:
    """Return the run that is under way in this process; None if there is none, or nobody has imported wandb."""
    wandb = sys.modules.get("wandb")
    return None if wandb is None else wandb.run
