"""``python -m splitlearn attack``."""

from __future__ import annotations

import json
import sys

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("attack")
def main(cfg: DictConfig) -> None:
    """Print what the attacks recovered, as tables or as one JSON object; how far they are goes to standard error."""
    from splitlearn.app import attack
    from splitlearn.cli.attack_tables import AttackProgress, print_attacks

    with AttackProgress(sys.stderr) as progress:
        found = attack(cfg, progress.watch)
    if cfg.json:
        print(json.dumps(found))
    else:
        print_attacks(found)
    if cfg.out is not None:
        print(f"written to {cfg.out}", file=sys.stderr)
