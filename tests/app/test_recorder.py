"""The record of a run that ends badly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitlearn.app import compose, recorder
from splitlearn.checkpoint import CheckpointError
from splitlearn.runs import read_summary


def test_a_best_checkpoint_that_cannot_be_read_does_not_keep_the_record_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(trainer: Any) -> None:
        raise CheckpointError("the best is damaged")

    monkeypatch.setattr(recorder, "find_best", fails)
    recording = recorder.Recorder(compose(), tmp_path)
    recording._trainer = object()  # type: ignore[assignment]
    recording.end_badly(MemoryError("no memory"))
    summary = read_summary(tmp_path)
    assert summary is not None and (summary.status, summary.reason) == ("failed", "no memory")
