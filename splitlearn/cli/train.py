"""``python -m splitlearn train``, also ``python train.py``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from splitlearn.app import FinishedRunError, conf_folder, train
from splitlearn.cli.errors import one_sentence


@hydra.main(config_path=str(conf_folder()), config_name="train", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> float | None:
    """Run one training and return its held-out loss, for Hydra's sweepers."""
    try:
        return train(cfg).metrics["val_loss_after"]
    except FinishedRunError as finished:
        # Whoever starts a run until it is done, as job queues do, is told that it is.
        print(finished)
        return None
