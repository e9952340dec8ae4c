"""``python -m splitlearn train``, also ``python train.py``."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Run one training and return its held-out loss, for Hydra's sweepers."""
    from splitlearn.app import FinishedRunError, train

    try:
        return train(cfg).metrics["val_loss_after"]
    except FinishedRunError as finished:
        # Whoever starts a run until it is done, as job queues do, is told that it is.
        print(finished)
        return None
