"""The command `report`: folders as they are typed, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from splitlearn.cli import report
from splitlearn.cli.arguments import prepare
from splitlearn.settings import SettingError
from tests.report.written_runs import write_sweep


def test_folders_are_named_without_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=1,b=2").mkdir()
    assert prepare("report", ["x", "a=1,b=2", "max_client_gib=2"]) == ["max_client_gib=2", "folders=['x','a=1,b=2']"]
    assert prepare("report", ["out=y", "--", "out=x", "it's"]) == ["out=y", r"folders=['out=x','it\'s']"]
    assert prepare("report", ["folders=x"]) == ["folders=x"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "no folder is named; give that of a sweep or of a run: report multirun/DATE/TIME"),
        (["folders=[]"], "no folder is named"),
        (["folders=3"], "no folder is named"),
        (["a", "folders=b"], "folders are given as folders=... and without the name; give them in one way"),
        (["a", "max_loss_increase=-1"], "max_loss_increase is -1; give a number of at least 0, or null"),
        (["a", "max_client=1"], "max_client is no setting of report; max_client_gib was probably meant"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_meant(argv: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        prepare("report", argv)
    assert str(refusal.value).startswith(sentence)


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["splitlearn report", *argv])
    report.main()


def test_it_writes_into_the_first_folder_or_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    run(monkeypatch, str(sweep), "max_client_gib=1.9")
    out = capsys.readouterr().out
    assert "Cut 1 / 6 is recommended" in out and f"wrote {sweep}/report.html, {sweep}/runs.csv, {sweep}/runs.md" in out
    assert all((sweep / name).is_file() for name in ("report.html", "runs.csv", "runs.md"))
    run(monkeypatch, str(sweep), f"out={tmp_path / 'elsewhere'}")
    assert (tmp_path / "elsewhere" / "report.html").is_file()


def test_a_folder_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "absent")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: absent is no folder; name the folder of a sweep or of a run")
