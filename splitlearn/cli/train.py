"""``python -m splitlearn train``, also ``python train.py``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from splitlearn.cli.command import command
from splitlearn.runs import read_summary
from splitlearn.settings import in_sweep


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Run one training and return its held-out loss, for Hydra's sweepers."""
    from splitlearn.app import FinishedRunError, train

    try:
        return train(cfg).metrics["val_loss_after"]
    except FinishedRunError as finished:
        # Whoever starts a run until it is done, as job queues do, is told that it is.
        print(finished)
        return _held_out_loss(cfg.run_folder) if in_sweep() else None


def _held_out_loss(folder: str) -> float | None:
    summary = read_summary(Path(folder))
    return None if summary is None else (summary.metrics or {}).get("val_loss_after")
