"""Losses that a run has logged, also over its resumes, and of files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.report import curves
from splitlearn.report.curves import read_curves


def log(folder: Path, name: str, *lines: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "metrics.csv").write_text("\n".join(("epoch,step,train_loss_step,val_loss", *lines)) + "\n")


def test_both_losses_by_step(tmp_path: Path) -> None:
    log(tmp_path, "metrics", "0,0,,5.0", "0,0,4.5,", "0,1,4.0,", "0,1,,3.5")
    read = read_curves(tmp_path)
    assert (read["val_loss"].steps, read["val_loss"].losses) == ([0, 1], [5.0, 3.5])
    assert (read["train_loss_step"].steps, read["train_loss_step"].losses) == ([0, 1], [4.5, 4.0])


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log(tmp_path, "metrics_until_resume_2", "0,2,2.0,", "0,3,9.0,")
    log(tmp_path, "metrics_until_resume_1", "0,0,4.0,", "0,1,3.0,", "0,2,9.0,")
    log(tmp_path, "metrics", "0,3,1.0,")
    curve = read_curves(tmp_path)["train_loss_step"]
    assert (curve.steps, curve.losses) == ([0, 1, 2, 3], [4.0, 3.0, 2.0, 1.0])


def test_long_curves_keep_their_ends(tmp_path: Path) -> None:
    log(tmp_path, "metrics", *(f"0,{step},{step}.5," for step in range(5000)))
    curve = read_curves(tmp_path)["train_loss_step"]
    assert len(curve.steps) == 200 and (curve.steps[0], curve.steps[-1]) == (0, 4999) and curve.losses[-1] == 4999.5


def test_a_run_without_a_log(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    log(tmp_path, "metrics")
    assert read_curves(tmp_path) == {}
    (tmp_path / "metrics" / "metrics.csv").write_bytes(b"")
    assert read_curves(tmp_path) == {}


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    log(tmp_path, "metrics", "0,0,<b>,nan", "0,1,inf,2.0", "0,1e300,1.0,", "x,,,", "0,2,3.0,,,,,,", "0,3,2.5,")
    read = read_curves(tmp_path)
    assert read["val_loss"].steps == [1] and read["train_loss_step"].losses == [3.0, 2.5]


def test_damaged_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, "metrics", "0,0,1.0,")
    monkeypatch.setattr(curves, "_MAX_BYTES", 10)
    with pytest.raises(ValueError, match="is longer than the 10 bytes that it may have"):
        read_curves(tmp_path)
    monkeypatch.undo()
    (tmp_path / "metrics" / "metrics.csv").write_bytes(b"step,val_loss\n1,\xff\n")
    with pytest.raises(ValueError, match=r"metrics.csv is damaged: .*codec"):
        read_curves(tmp_path)
    (tmp_path / "metrics" / "metrics.csv").write_bytes(b"step,val_loss\n1,2" + b"0" * 200_000 + b"\n")
    with pytest.raises(ValueError, match=r"metrics.csv is damaged: field larger than field limit"):
        read_curves(tmp_path)
