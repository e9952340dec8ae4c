"""``python -m splitlearn generate``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from splitlearn.app import conf_folder, generate
from splitlearn.cli.errors import one_sentence


@hydra.main(config_path=str(conf_folder()), config_name="generate", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> None:
    """Stream what the model says to the terminal."""
    generate(cfg, stream=True)
