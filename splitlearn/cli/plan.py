"""``python -m splitlearn plan``."""

from __future__ import annotations

import json

import hydra
from omegaconf import DictConfig

from splitlearn.app import conf_folder, plan
from splitlearn.cli.errors import one_sentence
from splitlearn.planning import check_fit, print_plan


@hydra.main(config_path=str(conf_folder()), config_name="plan", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> None:
    """Print what the cut will cost; exit with 2 and a sentence if this machine has not got the memory."""
    cost = plan(cfg)
    if cfg.json:
        print(json.dumps(cost.to_dict()))
    else:
        print_plan(cost)
    if cfg.must_fit is not None:
        check_fit(cost, {part.part: cfg.must_fit for part in cost.parts})
