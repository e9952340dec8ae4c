"""Saying which row of a file is not what training needs, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_KINDS: dict[type, str] = {str: "text", list: "list"}


@dataclass(frozen=True)
class Column:
    """A column that rows must have.

    Attributes:
        name: what it is called.
        setting: the setting that says so.
        kinds: what it may hold: text (``str``), a list, or either.
    """

    name: str
    setting: str
    kinds: tuple[type, ...] = (str,)

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return f"{self.held} field"

    @property
    def held(self) -> str:
        """What it may hold, in words."""
        return " or ".join(_KINDS[each] for each in self.kinds)


def is_json(path: Path) -> bool:
    """Whether a file's name says that it is jsonl."""
    return path.suffix.lower() in (".jsonl", ".json")


def not_utf8(paths: Sequence[Path]) -> Path | None:
    """Return the first file that is not UTF-8 text."""
    for path in paths:
        try:
            with path.open(encoding="utf-8") as lines:
                for _ in lines:
                    pass
        except UnicodeDecodeError:
            return path
    return None


def check_first_row(path: Path, columns: Sequence[Column]) -> None:
    """Refuse a jsonl file whose first row lacks a column.

    Raises:
        ValueError: it does, or the file holds no rows.
    """
    with path.open(encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{path}: no text in there")
    problem = _problem(first, columns)
    if problem:
        raise ValueError(f"{path} line 1 {problem}")


def first_bad_line(paths: Sequence[Path], columns: Sequence[Column]) -> str | None:
    """Return what is wrong with the first line of jsonl files that is not a row with all columns; None if all are."""
    for path in filter(is_json, paths):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                problem = _problem(line, columns) if line.strip() else None
                if problem:
                    return f"{path} line {number} {problem}"
    return None


def _problem(line: str, columns: Sequence[Column]) -> str | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not JSON ({error.msg})"
    for each in columns:
        if not isinstance(row, dict) or each.name not in row:
            return f"has no {each.kind} {each.name!r}; data.{each.setting} names the field to use"
        if not isinstance(row[each.name], each.kinds):
            return f"has {json.dumps(row[each.name])[:40]} as {each.name!r}, which is no {each.held}"
    return None
