"""``python -m splitlearn serve``."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("serve")
def main(cfg: DictConfig) -> None:
    """Hold a part for clients until a signal ends the server."""
    from splitlearn.app import serve

    serve(cfg)
