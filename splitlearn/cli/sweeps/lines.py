"""A sweep on the terminal: one line for each run, and one for their sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from splitlearn.cli.sweeps.outcomes import LOG_FILE, Job, Outcome
from splitlearn.memory import GIB, format_bytes

_MINUTE_S, _HOUR_S = 60, 3600
_LONGEST_REASON = 300


def opening_line(num_jobs: int, folder: Path) -> str:
    """Say how many runs there are and where they leave their results."""
    return f"sweep of {_runs(num_jobs)} in {folder}; what a run prints goes to {LOG_FILE} in its folder"


def line(job: Job, num_jobs: int, outcome: Outcome, left_s: float | None) -> str:
    """Return a job's line: its number, swept settings, loss, peak memory, time and the sweep's time left.

    Args:
        job: the job.
        num_jobs: how many the sweep has.
        outcome: what became of the job.
        left_s: seconds that the runs which are left will take; None if that is not known.
    """
    place = f"{job.number + 1:>{len(str(num_jobs))}}/{num_jobs}"
    pieces = [place, " ".join(job.overrides) or "(nothing varies)", _result(job, outcome)]
    if outcome.status not in ("skipped", "held"):
        pieces.append(format_seconds(outcome.seconds))
    if left_s is not None:
        pieces.append(f"about {format_seconds(left_s)} left")
    return "  ".join(pieces)


def closing_line(outcomes: Sequence[Outcome], num_jobs: int) -> str:
    """Say how many runs came to which end, how many were skipped, and how many were not begun."""
    counts = Counter(outcome.status for outcome in outcomes)
    words = {"skipped": "skipped (done before)", "held": "left to another process", "refused": "refused"}
    told = [f"{count} {words.get(status, status)}" for status, count in sorted(counts.items())]
    if num_jobs > len(outcomes):
        told.append(f"{num_jobs - len(outcomes)} not begun")
    return f"{_runs(num_jobs)}: {', '.join(told)}"


def _runs(number: int) -> str:
    return f"{number} run{'s' if number != 1 else ''}"


def format_seconds(seconds: float) -> str:
    """Return a duration for the eye."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.1f} min"
    return f"{seconds / _HOUR_S:.1f} h"


def _result(job: Job, outcome: Outcome) -> str:
    if outcome.status not in ("completed", "skipped"):
        reason = " ".join((outcome.reason or "").split())
        shown = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
        where = f" (see {job.folder})" if outcome.status == "failed" else ""
        return f"{outcome.status}: {shown}{where}"
    if outcome.status == "skipped":
        return f"skipped: {outcome.reason}"
    metrics = (outcome.summary.metrics if outcome.summary else None) or {}
    loss, peak, gpu = (metrics.get(name) for name in ("val_loss_after", "peak_rss_gib", "peak_gpu_gib"))
    figures = ["loss not measured" if loss is None else f"loss {loss:.4f}"]
    figures += [f"peak {format_bytes(peak * GIB)}"] if peak else []
    figures += [f"GPU {format_bytes(gpu * GIB)}"] if gpu else []
    return "  ".join(figures)
