"""``python -m splitlearn evaluate``."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Print the figures, as lines or as one JSON object."""
    from splitlearn.app import evaluate

    figures = evaluate(cfg)
    if cfg.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<18}{value:,}" if isinstance(value, int) else f"{name:<18}{value}")
