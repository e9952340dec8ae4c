"""``python -m splitlearn train``, also ``python train.py``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from splitlearn.app import conf_folder, train
from splitlearn.cli.errors import one_sentence


@hydra.main(config_path=str(conf_folder()), config_name="train", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> float:
    """Run one training and return its held-out loss, for Hydra's sweepers."""
    return train(cfg).metrics["val_loss_after"]
