"""``python -m splitlearn report``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from splitlearn.cli.command import command


@command("report", imports="splitlearn.report")
def main(cfg: DictConfig) -> None:
    """Write the page and both tables, print the cuts in a table, and say where the files are."""
    from splitlearn.report import Budgets, print_report, write_report

    folders = [cfg.folders] if isinstance(cfg.folders, str) else list(cfg.folders)
    limits = {name: cfg[name] for name in ("max_client_gib", "max_bytes_per_step", "max_recovery", "max_loss_increase")}
    out = None if cfg.out is None else Path(cfg.out).expanduser()
    report = write_report([Path(str(folder)).expanduser() for folder in folders], out, Budgets(**limits))
    print_report(report.frame, report.groups, list(report.recommended.values()), report.left_out)
    print(f"wrote {', '.join(map(str, report.files))}")
