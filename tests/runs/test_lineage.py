"""A checkpoint is used only with the run that it is of, from whichever of its starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitlearn.runs import RunSummary, checkpoint_run, checkpoint_starts, mark_checkpoint, refuse_other_run


def marked(run_id: str, *earlier: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"global_step": 1}
    mark_checkpoint(checkpoint, run_id, earlier)
    return checkpoint


def test_a_checkpoint_names_all_starts() -> None:
    assert checkpoint_run(marked("c", "a", "b")) == "c" and checkpoint_starts(marked("c", "a", "b")) == ["a", "b", "c"]


@pytest.mark.parametrize("content", [{}, {"run": None}, {"run": "a"}, {"run": {}}, {"run": {"id": 3}}])
def test_a_checkpoint_of_an_older_release_names_none(content: dict[str, Any]) -> None:
    assert checkpoint_run(content) is None and checkpoint_starts(content) == []
    refuse_other_run(Path("run"), RunSummary(run_id="a"), content)


def test_only_the_runs_own_are_taken() -> None:
    summary = RunSummary(run_id="c", earlier_starts=["a", "b"])
    for run_id in "abc":
        refuse_other_run(Path("run"), summary, marked(run_id))
    with pytest.raises(ValueError, match="the checkpoint is of run d, but run is of run c, which did not go on from it"):
        refuse_other_run(Path("run"), summary, marked("d", "a"))
    with pytest.raises(ValueError, match="of run a, but run is of run None"):
        refuse_other_run(Path("run"), RunSummary(), marked("a"))
