"""``python -m splitlearn verify``."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("verify")
def main(cfg: DictConfig) -> None:
    """Print what was compared; exit with 1 if anything differs by more than the tolerance."""
    from splitlearn.app import verify
    from splitlearn.verification import print_outcomes

    plan, outcomes = verify(cfg)
    title = f"{cfg.model.name_or_path} cut at {plan.split_point_1} / {plan.split_point_2}, tolerance {cfg.tolerance:g}"
    print_outcomes(title, outcomes, cfg.tolerance)
    if not all(each.is_equal(cfg.tolerance) for each in outcomes):
        raise SystemExit(1)
