"""The files of a report: written again, and never over a file of other origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.report import read_runs, recommend, write_report
from tests.report.written_runs import summary, write_run, write_sweep


def test_a_report_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    first = write_report([tmp_path / "sweep"])
    texts = [path.read_text(encoding="utf-8") for path in first.files]
    again = write_report([tmp_path / "sweep"])
    assert [path.read_text(encoding="utf-8") for path in again.files] == texts, "the same runs give the same report"
    one = write_run(tmp_path / "one", summary(1, 6))
    write_report([one])
    assert [path.name for path in write_report([one]).files] == ["report.html", "runs.csv", "runs.md"]


@pytest.mark.parametrize("name", ["report.html", "runs.csv", "runs.md"])
def test_a_file_of_other_origin_stays(tmp_path: Path, name: str) -> None:
    write_sweep(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} was not written by a report; name another folder with out=") as refusal:
        write_report([tmp_path])
    assert str(tmp_path) in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {name} and (tmp_path / name).read_text() == "mine"


def test_queries_of_addresses_are_left_out(tmp_path: Path) -> None:
    address = "https://hub.example/file?signature=secret"
    typed = [f"data.source={address}", "seed=1"]
    write_run(tmp_path / "a", summary(1, 6, tags=[address], overrides=typed), typed=typed)
    write_run(tmp_path / "b", summary(2, 6, status="failed", reason=f"no {address}"))
    assert recommend(read_runs(tmp_path)).command == (
        "python -m splitlearn train data.source=https://hub.example/file seed=1 split=points split.point_1=1 split.point_2=6"
    )
    for path in write_report([tmp_path]).files:
        assert "secret" not in path.read_text(encoding="utf-8")
