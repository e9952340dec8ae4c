"""Runs as text: CSV, Markdown, and the tables of the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from splitlearn.report import collect_runs, group_runs, print_report, read_runs, recommend, runs_csv, runs_markdown
from tests.report.written_runs import summary, write_run, write_sweep


def test_csv_holds_what_was_read(tmp_path: Path) -> None:
    frame = read_runs(write_sweep(tmp_path))
    again = pd.read_csv(io.StringIO(runs_csv(frame)))
    assert list(again.columns) == list(frame.columns) and again["run"].tolist() == frame["run"].tolist()
    assert again["loss"].tolist()[:6] == frame["loss"].tolist()[:6] and again["status"].tolist() == frame["status"].tolist()
    assert runs_csv(frame).splitlines()[1].split(",")[8] == "0"


@pytest.mark.parametrize("name", ["=cmd", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / name, summary(1, 6, tags=["=HYPERLINK()"]))
    again = pd.read_csv(io.StringIO(runs_csv(read_runs(tmp_path))))
    assert again["run"][0] == f"'{name}" and again["tags"][0] == "'=HYPERLINK()"


def test_markdown_has_one_row_a_run_and_no_markup_of_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a|b", summary(1, 6, status="failed", reason="<script>x</script> [y](javascript:z) *"))
    lines = runs_markdown(read_runs(tmp_path)).splitlines()
    assert lines[0].startswith("| run | status | first cut | second cut |") and "token recovery" not in lines[0]
    assert len(lines) == 3 and lines[2].startswith("| a\\|b | failed | 1 | 6 | 0 | 3.7500 |")
    assert "\\<script\\>x\\</script\\> \\[y\\]\\(javascript:z\\) \\*" in lines[2]


def test_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's processes may have a narrow one.
    monkeypatch.setenv("COLUMNS", "132")
    runs = collect_runs([write_sweep(tmp_path)])
    print_report(runs.frame, group_runs(runs.frame), [recommend(runs.frame)], {"half": "it has no summary.json"})
    text = capsys.readouterr().out
    assert "3.2812 ± 0.0442" in text and "± is the standard deviation over seeds" in text
    rows = [line for line in text.splitlines() if " / " in line and "│" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["3 / 7", "2 / 6", "1 / 6"], "the lowest loss comes first"
    assert "8 runs: 6 completed, 1 failed, 1 refused" in text
    assert "split.point_1=4,split.point_2=7,seed=0: out of memory" in text and "half: left out: it has no summary.json" in text
    assert "python -m splitlearn train model=embedded trainer.max_steps=20 seed=0" in text


def test_markup_of_others_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", summary(1, 6, status="failed", reason="[red]x[/red] [/nothing] \x1b[2J", model="[bold]m"))
    runs = collect_runs([tmp_path])
    print_report(runs.frame, group_runs(runs.frame), [], {"[red]": "\x1b"})
    text = capsys.readouterr().out
    assert "[red]x[/red] [/nothing] ?[2J" in text and "[red]: left out" in text
