"""The record of a run: one writer, and one reader that takes older records and tells damaged ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from splitlearn.runs import SUMMARY_FILE, RunSummary, read_summary, write_summary
from splitlearn.runs.summary import VERSION

# As releases wrote it that did not number their records; a run that was refused.
OLDER = {
    "status": "refused",
    "model": "embedded:qwen2_tiny",
    "folder": "/a/run",
    "split_point_1": 3,
    "split_point_2": None,
    "tags": [],
    "reason": "the model has 8 decoder layers",
}


def write(folder: Path, content: Any) -> None:
    (folder / SUMMARY_FILE).write_text(json.dumps(content))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    summary = RunSummary(
        status="completed",
        tags=["ä", 1],
        split_point_1=2,
        metrics={"val_loss_after": 1.5, "tokens_per_s": None},
        parts=[{"name": "bottom", "dtype": "float32"}],
        learning_rate=1,
        trained={"bottom": "full"},
    )
    assert write_summary(tmp_path / "run", summary) == tmp_path / "run" / SUMMARY_FILE
    assert read_summary(tmp_path / "run") == summary
    written = json.loads((tmp_path / "run" / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert written["version"] == VERSION and written["reason"] is None and "others" not in written
    assert next(iter(written)) == "version"


def test_a_run_without_a_record(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None and read_summary(tmp_path / "absent") is None


def test_an_older_record_is_read(tmp_path: Path) -> None:
    write(tmp_path, OLDER)
    summary = read_summary(tmp_path)
    assert summary is not None and not summary.is_completed
    assert summary.version is None and summary.metrics is None and summary.placement is None
    assert {name: getattr(summary, name) for name in OLDER} == OLDER


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {**OLDER, "version": VERSION, "of_tomorrow": {"a": [1]}})
    summary = read_summary(tmp_path)
    assert summary is not None and summary.others == {"of_tomorrow": {"a": [1]}}
    write_summary(tmp_path, summary)
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["of_tomorrow"] == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"status": "comp', "Unterminated string"),
        (b"\xff\xfe", "can't decode byte"),
        (b"[1]", "holds a list where an object with fields is needed"),
        (b'{"metrics": [1, 2]}', "metrics is a list"),
        (b'{"metrics": {"val_loss_after": "low"}}', r"metrics\.val_loss_after is 'low'"),
        (b'{"parts": [{}, 3]}', r"parts\.1 is 3"),
        (b'{"trained": {"top": []}}', r"trained\.top is a list"),
        (b'{"base": {"part_dtypes": ["float32"]}}', r"base\.part_dtypes is a list"),
        (b'{"status": 3}', "status is 3"),
        (b'{"split_point_1": true}', "split_point_1 is True"),
        (b'{"split_point_1": 1.5}', "split_point_1 is 1.5"),
        (b'{"version": 99}', f"it is of version 99, and this release reads up to {VERSION}"),
        (b'{"version": "1"}', "version is '1'"),
    ],
)
def test_a_damaged_record_is_told_in_one_sentence(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / SUMMARY_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as told:
        read_summary(tmp_path)
    message = str(told.value)
    assert message.count(str(tmp_path / SUMMARY_FILE)) == 1 and "\n" not in message
    assert "ckpt=last or ckpt=best" in message


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_summary(tmp_path, RunSummary(status="interrupted"))

    def is_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(OSError, match="No space left"):
        write_summary(tmp_path, RunSummary(status="completed"))
    assert read_summary(tmp_path) == RunSummary(status="interrupted")
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY_FILE]


def test_numbers_that_json_cannot_hold(tmp_path: Path) -> None:
    write_summary(tmp_path, RunSummary(status="diverged", metrics={"val_loss_after": float("nan")}, learning_rate=float("inf")))
    assert read_summary(tmp_path) == RunSummary(status="diverged", metrics={"val_loss_after": None})
