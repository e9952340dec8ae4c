"""``python -m splitlearn verify``."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("verify")
def main(cfg: DictConfig) -> None:
    """Print what was compared; exit with 1 if anything differs by more than the tolerance, or a file of a run is damaged."""
    from splitlearn.app import verify, verify_run
    from splitlearn.verification import print_files, print_outcomes

    if cfg.run is not None:
        files = verify_run(cfg)
        print_files(str(cfg.run), files)
        if any(file.problem is not None for file in files):
            raise SystemExit(1)
        return
    plan, outcomes = verify(cfg)
    title = f"{cfg.model.name_or_path} cut at {plan.split_point_1} / {plan.split_point_2}, tolerance {cfg.tolerance:g}"
    print_outcomes(title, outcomes, cfg.tolerance)
    if not all(each.is_equal(cfg.tolerance) for each in outcomes):
        raise SystemExit(1)
