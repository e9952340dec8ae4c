"""Runs as text: for the terminal, as ``runs.csv`` and as ``runs.md``."""

from __future__ import annotations

import re

import pandas as pd
from rich.table import Table
from rich.text import Text

from splitlearn.memory import format_bytes
from splitlearn.report.budgets import Recommendation
from splitlearn.report.columns import COLUMNS, COMPARED, TEXTS
from splitlearn.terminal import make_console

# Rows of a table in the terminal.
_MOST_ROWS = 40
_MOST_REASONS = 10
# Spreadsheets take a cell that begins so for a formula, which may run a program.
_FORMULA = ("=", "+", "-", "@")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&])")
_IN_MARKDOWN = (
    "run",
    "status",
    "split_point_1",
    "split_point_2",
    "seed",
    *COMPARED,
    "reason",
)


def runs_csv(frame: pd.DataFrame) -> str:
    """Return runs as CSV, one row a run, with all columns; a text that a spreadsheet would compute gets a ``'`` before it."""
    safe = frame.copy()
    for name in TEXTS:
        safe[name] = [f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text for text in frame[name]]
    return safe.to_csv(index=False, lineterminator="\n")


def runs_markdown(frame: pd.DataFrame) -> str:
    """Return runs as a Markdown table of the main columns, one row a run, without what nobody measured."""
    shown = [name for name in _IN_MARKDOWN if name in ("run", "status") or frame[name].notna().any()]
    headings = [COLUMNS[name].heading + (f" ({COLUMNS[name].unit})" if COLUMNS[name].unit else "") for name in shown]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(shown)]
    for row in frame[shown].itertuples(index=False):
        cells = [_MARKDOWN.sub(r"\\\1", figure_text(name, value)) for name, value in zip(shown, row, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure_text(name: str, value: object) -> str:
    """Return a cell of a column for the eye; empty for what is not known."""
    if value is None or pd.isna(value):
        return ""
    column = COLUMNS[name]
    if column.kind == "text":
        return str(value)
    number = float(str(value))
    if column.kind == "count":
        return f"{number:.0f}"
    if name.endswith("_per_step"):
        return format_bytes(number)
    if column.unit == "share":
        return f"{number:.1%}"
    if column.unit == "s":
        return f"{number:.4f}" if number < 1 else f"{number:.3f}"
    return f"{number:.4g}" if name in ("learning_rate", "perplexity", "tokens_per_s") else f"{number:.4f}"


def print_report(
    frame: pd.DataFrame, groups: pd.DataFrame, recommended: list[Recommendation], left_out: dict[str, str]
) -> None:
    """Print the cuts with means and spread over seeds, what did not complete, and the recommendation.

    Args:
        frame: one row a run.
        groups: its groups, as `group_runs` returns them.
        recommended: what is recommended, for each model.
        left_out: folders whose records cannot be read, with the reasons.
    """
    console = make_console()
    if len(groups):
        console.print(_groups_table(groups))
    total = f"{len(frame)} run{'s' if len(frame) != 1 else ''}"
    console.print(f"{total}: {', '.join(f'{count} {status}' for status, count in count_statuses(frame).items())}", markup=False)
    open_runs = frame[frame["status"] != "completed"]
    reasons = [(run, reason) for run, reason in zip(open_runs["run"], open_runs["reason"], strict=True) if reason]
    reasons += [(name, f"left out: {reason}") for name, reason in left_out.items()]
    for run, reason in reasons[:_MOST_REASONS]:
        console.print(Text(f"  {run}: {reason}"))
    if len(reasons) > _MOST_REASONS:
        console.print(f"  and {len(reasons) - _MOST_REASONS} more; the page lists them")
    for recommendation in recommended:
        console.print(Text(f"\n{recommendation.reason}"))
        if recommendation.command is not None:
            # One line, so that it can be copied.
            console.print(Text(recommendation.command), soft_wrap=True)


def count_statuses(frame: pd.DataFrame) -> dict[str, int]:
    """Return how many runs ended in which way, the most frequent first."""
    counts = frame["status"].value_counts()
    return {str(status): int(count) for status, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))}


def _groups_table(groups: pd.DataFrame) -> Table:
    names = ["loss", "client_gib", "server_gib", "bytes_per_step", "step_s", "link_step_s", "waiting_share", "token_recovery"]
    shown = [name for name in names if groups[name].notna().any()]
    table = Table(title="cuts by held-out loss", title_justify="left", caption_justify="left")
    several_models = groups["model"].nunique() > 1
    for heading in (*(["model"] if several_models else []), "cut"):
        table.add_column(heading, overflow="fold")
    table.add_column("runs", justify="right")
    for name in shown:
        unit = "" if COLUMNS[name].unit in ("bytes", "") else f"\n{COLUMNS[name].unit}"
        table.add_column(f"{COLUMNS[name].heading}{unit}", justify="right")
    table.add_column("Pareto")
    for _, group in groups.head(_MOST_ROWS).iterrows():
        cells = [Text(str(group["model"]))] if several_models else []
        cells += [Text(group["label"]), Text(str(group["num_runs"]))]
        cells += [Text(mean_text(group, name)) for name in shown]
        table.add_row(*cells, "yes" if group["is_pareto"] else "")
    notes = ["± is the standard deviation over seeds"] if (groups["num_runs"] > 1).any() else []
    if len(groups) > _MOST_ROWS:
        notes.append(f"{len(groups) - _MOST_ROWS} more cuts are in runs.csv")
    table.caption = "; ".join(notes)
    return table


def mean_text(group: pd.Series, name: str) -> str:
    """Return the mean of a group's figure with its spread, where there is one, to as many decimal places."""
    text, spread = figure_text(name, group[name]), group[f"{name}_std"]
    if not text or pd.isna(spread) or spread <= 0:
        return text
    places = len(text.partition(".")[2])
    return f"{text} ± {spread:.{places}f}" if text[-1].isdigit() else f"{text} ± {figure_text(name, spread)}"
