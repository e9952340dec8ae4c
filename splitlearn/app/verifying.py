"""Comparing a checkpoint's parts with the unsplit model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from splitlearn.app.configuration import naming_settings
from splitlearn.app.models import open_model
from splitlearn.cut import SplitPlan
from splitlearn.export import RunRecord, check_saved_state
from splitlearn.runs import CONFIG_FILE, SUMMARY_FILE, read_run_config, read_summary
from splitlearn.settings import check
from splitlearn.verification import (
    FileOutcome,
    Outcome,
    refuse_non_finite,
    verify_saved_files,
    verify_streamed,
    verify_whole,
)


@naming_settings()
def verify(cfg: DictConfig) -> tuple[SplitPlan, list[Outcome]]:
    """Compare a checkpoint's parts with the unsplit model; first its weights are looked through for NaN and infinity.

    Args:
        cfg: a configuration like ``conf/verify.yaml``.

    Returns:
        The cut, and one outcome for each comparison.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: a file or folder does not exist.
    """
    check(cfg, "verify")
    if cfg.streamed and cfg.device != "cpu":
        raise ValueError(f"device is {cfg.device}, but streamed layers are compared on the CPU; leave device=cpu")
    # The unsplit model that the parts are compared with is not quantized.
    opened = open_model(cfg).revise(quantization=None)
    refuse_non_finite(opened.source, {match.source for match in opened.loader.matches})
    common: dict[str, Any] = {"num_rows": cfg.rows, "num_tokens": cfg.tokens, "seed": cfg.seed}
    if cfg.streamed:
        return opened.plan, verify_streamed(opened, **common)
    more = {"device": cfg.device, "num_new_tokens": cfg.new_tokens, "gradients": cfg.gradients}
    return opened.plan, verify_whole(opened, **common, **more)


def verify_run(cfg: DictConfig) -> list[FileOutcome]:
    """Read what a run has saved to the end of each file, and compare checksums.

    Args:
        cfg: a configuration like ``conf/verify.yaml`` with a run's folder as ``run``.

    Returns:
        One outcome for each file of the run: its record and configuration, parts, adapters and checkpoints.

    Raises:
        FileNotFoundError: the folder is no run's.
    """
    check(cfg, "verify")
    folder = Path(cfg.run).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"run is {cfg.run}, which is no folder")
    outcomes = []
    for name, read in ((CONFIG_FILE, read_run_config), (SUMMARY_FILE, read_summary)):
        path = folder / name
        try:
            read(folder)
            problem = None
        except ValueError as error:
            problem = str(error)
        if path.is_file():
            outcomes.append(FileOutcome(name, path.stat().st_size, problem))
    return _with_mixture(outcomes, folder) + verify_saved_files(folder)


def _with_mixture(outcomes: list[FileOutcome], folder: Path) -> list[FileOutcome]:
    """Add to the record of a completed run that the folder holds files of another run or step, if it does."""
    summary = None if any(outcome.problem for outcome in outcomes) else read_summary(folder)
    if summary is None or not summary.is_completed:
        return outcomes
    try:
        check_saved_state(RunRecord.read(folder))
    except (ValueError, FileNotFoundError) as error:
        return [replace(outcome, problem=str(error)) if outcome.file == SUMMARY_FILE else outcome for outcome in outcomes]
    return outcomes
