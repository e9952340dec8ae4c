"""The files of a report: the page and both tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from splitlearn.files import check_writable, write_text
from splitlearn.report.budgets import Budgets, Recommendation, recommend
from splitlearn.report.columns import plain_text
from splitlearn.report.commands import train_command
from splitlearn.report.frame import collect_runs
from splitlearn.report.groups import group_runs
from splitlearn.report.tables import runs_csv, runs_markdown
from splitlearn.runs import read_summary

PAGE_FILE = "report.html"
CSV_FILE = "runs.csv"
MARKDOWN_FILE = "runs.md"
# What stands near the beginning of each file that a report has written.
_MARKS = {PAGE_FILE: b'content="splitlearn report"', CSV_FILE: b"run,status,reason,", MARKDOWN_FILE: b"| run | status |"}
_MARK_WITHIN = 1024


@dataclass(frozen=True)
class Report:
    """What a report says, and where it stands.

    Attributes:
        frame: one row a run, as `read_runs` returns it.
        groups: runs that differ in their seeds alone, as `group_runs` returns them.
        recommended: for each model the recommended cut, or why there is none; empty for a single run.
        left_out: folders whose records cannot be read, with the reasons.
        files: the page and both tables.
    """

    frame: pd.DataFrame
    groups: pd.DataFrame
    recommended: dict[str, Recommendation]
    left_out: dict[str, str]
    files: tuple[Path, ...]


def write_report(folders: list[Path], out: Path | None = None, budgets: Budgets | None = None) -> Report:
    """Write ``report.html``, ``runs.csv`` and ``runs.md`` about the runs at or below some folders.

    A single run has a page of its own kind.

    Args:
        folders: folders of sweeps or of single runs.
        out: the folder to write; None writes into the first of ``folders``.
        budgets: what the recommended cut may cost; None sets no limits.

    Raises:
        FileNotFoundError: a folder does not exist, or none of them holds a run.
        ValueError: there is no run whose record can be read, or the folder has a file of other origin in a report's place.
        WriteError: the folder cannot be written.
    """
    if not folders:
        raise FileNotFoundError("no folder is named; name that of a sweep or of a run, such as multirun/DATE/TIME")
    out = folders[0] if out is None else out
    runs = collect_runs(folders)
    if runs.frame.empty:
        name, reason = next(iter(runs.left_out.items()))
        raise ValueError(f"none of the {len(runs.left_out)} records can be read, such as that of {name}: {reason}")
    _refuse_other_files(out)
    check_writable(out)
    groups = group_runs(runs.frame)
    is_single = len(runs.frame) == 1 and not runs.left_out
    recommended = {} if is_single else _recommendations(runs.frame, budgets)
    # Takes a second, and tables do not need it.
    from splitlearn.report.page import run_page, sweep_page

    title = f"Report: {', '.join(plain_text(folder.resolve().name) for folder in folders[:3])}"
    if is_single:
        row = runs.frame.iloc[0]
        summary = read_summary(Path(row["folder"]))
        if summary is None:
            raise ValueError(f"{row['folder']} no longer holds a record")
        page = run_page(f"Run: {row['run']}", row, summary, train_command(Path(row["folder"]), row))
    else:
        page = sweep_page(title, runs.frame, groups, recommended, runs.left_out)
    contents = {PAGE_FILE: page, CSV_FILE: runs_csv(runs.frame), MARKDOWN_FILE: runs_markdown(runs.frame)}
    files = tuple(write_text(out / name, content) for name, content in contents.items())
    return Report(runs.frame, groups, recommended, runs.left_out, files)


def _recommendations(frame: pd.DataFrame, budgets: Budgets | None) -> dict[str, Recommendation]:
    """Return for each model what is recommended; the model with the most runs comes first."""
    models = frame["model"].fillna("unknown model")
    return {str(model): recommend(frame[models == model], budgets) for model in models.value_counts().index}


def _refuse_other_files(out: Path) -> None:
    """Refuse a folder that has a file in the place of a report's which no report has written."""
    for name, mark in _MARKS.items():
        path = out / name
        if path.is_file():
            with path.open("rb") as file:
                is_ours = mark in file.read(_MARK_WITHIN)
            if not is_ours:
                raise ValueError(f"{path} was not written by a report; name another folder with out=...")
