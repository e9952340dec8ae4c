"""``python -m splitlearn verify``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from splitlearn.app import conf_folder, verify
from splitlearn.cli.errors import one_sentence
from splitlearn.verification import print_outcomes


@hydra.main(config_path=str(conf_folder()), config_name="verify", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> None:
    """Print what was compared; exit with 1 if anything differs by more than the tolerance."""
    plan, outcomes = verify(cfg)
    title = f"{cfg.model.name_or_path} cut at {plan.split_point_1} / {plan.split_point_2}, tolerance {cfg.tolerance:g}"
    print_outcomes(title, outcomes, cfg.tolerance)
    if not all(each.is_equal(cfg.tolerance) for each in outcomes):
        raise SystemExit(1)
