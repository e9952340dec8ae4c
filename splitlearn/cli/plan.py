"""``python -m splitlearn plan``."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("plan")
def main(cfg: DictConfig) -> None:
    """Print what the cut will cost; exit with 2 and a sentence if this machine has not got the memory."""
    from splitlearn.app import naming_settings, plan
    from splitlearn.planning import check_fit, print_plan

    cost = plan(cfg)
    if cfg.json:
        print(json.dumps(cost.to_dict()))
    else:
        print_plan(cost)
    if cfg.must_fit is not None:
        with naming_settings():
            check_fit(cost, {part.part: cfg.must_fit for part in cost.parts})
