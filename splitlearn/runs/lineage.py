"""Which run a checkpoint is of: each start of a run has an id, and knows those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitlearn.runs.summary import RunSummary

_KEY = "run"


def mark_checkpoint(checkpoint: dict[str, Any], run_id: str, earlier_starts: Sequence[str]) -> None:
    """Write into a checkpoint's content which run it is of; its step is Lightning's ``global_step``.

    Args:
        checkpoint: its content.
        run_id: of this start of the run.
        earlier_starts: the ids of the run's starts before this one, the first one first.
    """
    checkpoint[_KEY] = {"id": run_id, "earlier_starts": list(earlier_starts)}


def checkpoint_run(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the id of the start of a run that wrote a checkpoint; None if an older release did."""
    run = checkpoint.get(_KEY)
    run_id = run.get("id") if isinstance(run, Mapping) else None
    return run_id if isinstance(run_id, str) else None


def checkpoint_starts(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the ids of all starts that led to a checkpoint, the first one first; empty if an older release wrote it."""
    run_id = checkpoint_run(checkpoint)
    return [] if run_id is None else [*checkpoint[_KEY].get("earlier_starts", ()), run_id]


def refuse_other_run(folder: Path, summary: RunSummary, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is of another run than the one in a folder.

    Args:
        folder: the run's folder.
        summary: its record.
        checkpoint: the checkpoint's content.

    Raises:
        ValueError: it is of another run. That of an older release, which says nothing, is taken for the folder's own.
    """
    run_id = checkpoint_run(checkpoint)
    if not summary.owns(run_id):
        raise ValueError(
            f"the checkpoint is of run {run_id}, but {folder} is of run {summary.run_id}, which did not go on from it; name a "
            "checkpoint of this run, or start again with overwrite=true"
        )
