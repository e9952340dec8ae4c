"""The record of a run that ends badly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.app import compose, recorder
from splitlearn.checkpoint import CheckpointError
from splitlearn.interruption import note_interruption
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


def test_a_signal_whose_error_torch_has_replaced_is_still_an_interruption(tmp_path: Path) -> None:
    class Struck:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> int:
            note_interruption(2)
            raise SystemExit(130)

    with pytest.raises(ValueError, match="could not determine the shape of object type") as raised:
        torch.tensor(Struck())
    recording = recorder.Recorder(compose(), tmp_path)
    recording.end_badly(raised.value)
    summary = read_summary(tmp_path)
    assert summary is not None and summary.status == "interrupted"
    assert summary.reason == "the run was stopped before there was a checkpoint; start it again"


def test_an_interruption_of_whoever_trains_from_python_is_found_behind_the_error_that_replaced_it(tmp_path: Path) -> None:
    def save() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            # As torch does, whose file is closed when it is half written.
            raise RuntimeError("unexpected position of the file")

    with pytest.raises(RuntimeError) as raised:
        save()
    recording = recorder.Recorder(compose(), tmp_path)
    recording.end_badly(raised.value)
    summary = read_summary(tmp_path)
    assert summary is not None and summary.status == "interrupted"
