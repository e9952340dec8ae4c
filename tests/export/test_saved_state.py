"""Saved parts and adapters are used only if all are of the state that the run's record speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.adapters import ADAPTER_FILE, read_stamp
from splitlearn.checkpoint import CheckpointError, write_part_file, write_tensor_file
from splitlearn.cut import PART_NAMES
from splitlearn.export import RunRecord, check_saved_state
from splitlearn.runs import RunSummary, Stamp

OWN, OLDER, OTHER = Stamp("a", 4), Stamp("a", 2), Stamp("b", 4)
WEIGHTS = {"weight": torch.zeros(1)}


def record(folder: Path, run: Stamp | None, adapters: bool = False, **values: Any) -> RunRecord:
    trained = dict.fromkeys(PART_NAMES, "adapters" if adapters else "full")
    of_run: dict[str, Any] = {"run_id": run.run, "step": run.step} if run else {}
    summary = RunSummary(status="completed", trained=trained, saved_parts=str(folder), **of_run)
    return RunRecord(folder, {"peft": {"method": "lora"} if adapters else None}, summary, **values)


def save(folder: Path, stamps: dict[str, Stamp | None]) -> None:
    for name, stamp in stamps.items():
        write_part_file(folder / "parts" / f"{name}.pt", {"run": stamp.to_dict()} if stamp else {}, WEIGHTS)


def test_parts_of_the_run_and_of_older_releases_are_taken(tmp_path: Path) -> None:
    save(tmp_path, dict.fromkeys(PART_NAMES, OWN))
    check_saved_state(record(tmp_path, OWN))
    save(tmp_path, dict.fromkeys(PART_NAMES))
    check_saved_state(record(tmp_path, None))


@pytest.mark.parametrize(
    ("run", "stamp", "reason"),
    [
        (OWN, OLDER, r"is of run a at step 2, but .*summary.json is of run a at step 4"),
        (OWN, OTHER, r"is of run b at step 4, but"),
        (OWN, None, "does not say which run it is of, but"),
        (None, OWN, r"is of run a at step 4, but .*summary.json is of a release that did not note it"),
    ],
)
def test_a_file_of_another_state_is_refused(run: Stamp | None, stamp: Stamp | None, reason: str, tmp_path: Path) -> None:
    save(tmp_path, {**dict.fromkeys(PART_NAMES, run), "trunk": stamp})
    with pytest.raises(CheckpointError, match=rf"parts/trunk.pt {reason}.*; take a whole one with ckpt=last or ckpt=best"):
        check_saved_state(record(tmp_path, run))
    # A checkpoint is a whole state by itself.
    check_saved_state(record(tmp_path, run, checkpoint={"trained": {}}))


def test_adapters_of_another_state_are_refused(tmp_path: Path) -> None:
    check_saved_state(record(tmp_path, OWN, adapters=True))
    path = tmp_path / "adapters" / ADAPTER_FILE
    for stamp in (OWN, OTHER):
        write_tensor_file(WEIGHTS, path, {name: str(value) for name, value in stamp.to_dict().items()})
        assert read_stamp(path.parent) == stamp
    with pytest.raises(CheckpointError, match=f"{ADAPTER_FILE} is of run b at step 4, but"):
        check_saved_state(record(tmp_path, OWN, adapters=True))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{ADAPTER_FILE} is damaged"):
        read_stamp(path.parent)
