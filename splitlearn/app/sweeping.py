"""A run that is a job of a sweep: it goes on from what an earlier start of the sweep left, and leaves alone what is done."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from splitlearn.app.checkpoints import FinishedRunError
from splitlearn.checkpoint import CheckpointError
from splitlearn.files import write_text
from splitlearn.redaction import without_queries
from splitlearn.runs import other_setting, read_summary
from splitlearn.settings import in_sweep, run_overrides, sweep_folder

TRACEBACK_FILE = "traceback.txt"


def settle_job(cfg: DictConfig) -> None:
    """Have a job of a sweep go on from its last checkpoint if there is one, unless the settings say otherwise.

    Args:
        cfg: the run's configuration; it is changed.
    """
    if in_sweep() and cfg.ckpt_path is None and not cfg.overwrite:
        cfg.ckpt_path = "auto"


def refuse_done_job(folder: Path, overwrite: bool) -> None:
    """Refuse a job of a sweep whose folder holds its result, or a run of other settings. Nothing is changed.

    Args:
        folder: the run's folder, which is this process's alone.
        overwrite: whether what the folder holds is to be replaced.

    Raises:
        FinishedRunError: the run is done.
        CheckpointError: the folder holds a run of other settings.
    """
    if not in_sweep() or overwrite:
        return
    summary = read_summary(folder)
    if summary is None or summary.status == "failed":
        return
    hydra: Any = HydraConfig.get()
    difference = other_setting(folder, hydra.overrides.task)
    if difference is not None:
        raise CheckpointError(
            f"{folder} holds a run of other settings ({difference}); name another folder with hydra.sweep.dir=..., or "
            "replace it with overwrite=true"
        )
    if summary.is_final:
        raise FinishedRunError(f"the run of {folder} is finished: it is {summary.status}; nothing was changed")


def describe_job() -> dict[str, Any]:
    """Return what ``summary.json`` says of the sweep: which of the job's settings are swept, and the sweep's folder."""
    folder = sweep_folder()
    return {} if folder is None else {"overrides": run_overrides(), "sweep": str(Path(folder).resolve())}


def keep_traceback(folder: Path, error: BaseException) -> None:
    """Write down where in the code a job of a sweep failed: its output is nobody's screen."""
    if in_sweep():
        write_text(folder / TRACEBACK_FILE, without_queries("".join(traceback.format_exception(error))))
