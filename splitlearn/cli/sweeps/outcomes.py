"""What became of a job of a sweep, and its record where its process left none."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from splitlearn.files import WriteError
from splitlearn.redaction import without_queries
from splitlearn.runs import (
    CONFIG_FILE,
    HYDRA_FOLDER,
    RUNNING,
    HeldFolderError,
    RunSummary,
    hold_run_folder,
    open_run_folder,
    read_summary,
    write_hydra_files,
    write_summary,
)

LOG_FILE = "output.log"
# The folders of this process's jobs that failed: the command's exit status tells of them.
FAILED_RUNS: list[Path] = []
_ENDED_BY_SIGNAL = 128


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: its place among the sweep's, from 0.
        overrides: the swept ones.
        folder: the run's folder.
        config: its configuration with Hydra's own.
    """

    number: int
    overrides: list[str]
    folder: Path
    config: DictConfig


@dataclass(frozen=True)
class Report:
    """What a job's process says of its end.

    Attributes:
        value: what the task returned.
        error: the sentence of what it raised; None if it returned.
        is_held: whether another process runs in the job's folder.
    """

    value: Any = None
    error: str | None = None
    is_held: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: as in ``summary.json``; or ``"skipped"``, done by an earlier start of the sweep, or ``"held"``, run by another.
        reason: why it did not complete.
        value: what the task returned.
        summary: the run's record.
        seconds: how long it took.
    """

    status: str
    reason: str | None = None
    value: Any = None
    summary: RunSummary | None = None
    seconds: float = 0.0

    @property
    def is_failure(self) -> bool:
        """Whether the sweep is to fail for it."""
        return self.status in ("failed", "diverged", "interrupted")


def finished_before(job: Job) -> Outcome | None:
    """Return what an earlier start of the sweep made of a job; None if it is to be run."""
    with suppress(ValueError):
        summary = read_summary(job.folder)
        if summary is not None and summary.is_final and not job.config.get("overwrite"):
            value = (summary.metrics or {}).get("val_loss_after")
            # One that diverged is not run again either, but it has not become a success.
            status = "diverged" if summary.status == "diverged" else "skipped"
            return Outcome(status, f"{summary.status} before", value, summary)
    return None


def outcome_of(job: Job, report: Report | None, exit_status: int, seconds: float) -> Outcome:
    """Return what became of a job whose process has ended, and see that its folder has a record.

    Args:
        job: the job.
        report: what the process said; None if it could say nothing.
        exit_status: of the process, negative for a signal that ended it.
        seconds: how long it ran.
    """
    if report is not None and report.is_held:
        return Outcome("held", report.error, seconds=seconds)
    summary = _read(job.folder)
    if report is None and summary is not None and summary.status == "interrupted":
        return Outcome("interrupted", summary.reason, summary=summary, seconds=seconds)
    if report is not None and report.error is None and summary is not None:
        return Outcome(str(summary.status), summary.reason, report.value, summary, seconds)
    status = "interrupted" if report is None and exit_status > _ENDED_BY_SIGNAL else "failed"
    reason = report.error if report is not None and report.error else _how_it_ended(exit_status)
    if summary is not None and summary.status == status and summary.reason:
        reason = summary.reason
    elif summary is None or summary.status == RUNNING:
        summary = _write_record(job, summary, status, reason)
    return Outcome(status, reason, summary=summary, seconds=seconds)


def _how_it_ended(exit_status: int) -> str:
    if exit_status == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as the system does when memory runs out"
    if exit_status < 0:
        return f"its process was ended by {signal.Signals(-exit_status).name}"
    return f"its process ended with status {exit_status} before the run was done"


def _read(folder: Path) -> RunSummary | None:
    with suppress(ValueError):
        return read_summary(folder)
    return None


def _write_record(job: Job, summary: RunSummary | None, status: str, reason: str) -> RunSummary | None:
    """Write the record of a run whose process could not, with its configuration, and return it."""
    cfg = job.config
    hydra = cfg.hydra
    if summary is None:
        points: dict[str, Any] = {
            f"split_{point}": value if isinstance(value := cfg.split.get(point), int) else None
            for point in ("point_1", "point_2")
        }
        sweep, folder = str(Path(str(hydra.sweep.dir)).resolve()), str(job.folder.resolve())
        model = OmegaConf.select(cfg, "model.name_or_path", throw_on_missing=False)
        summary = RunSummary(model=model, folder=folder, overrides=job.overrides, sweep=sweep, **points)
    record = replace(summary, status=status, reason=without_queries(reason))
    # Where nothing can be written, or another process runs by now, the line on the terminal says what happened.
    with suppress(WriteError, OSError, HeldFolderError, ValueError), hold_run_folder(open_run_folder(job.folder)):
        if not (job.folder / CONFIG_FILE).is_file() and not (job.folder / HYDRA_FOLDER / "config.yaml").is_file():
            settings = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            write_hydra_files(job.folder, settings, hydra)
        write_summary(job.folder, record)
    return record
