"""Saying what is wrong with a row that is not what training needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        return " or ".join(_KINDS[kind] for kind in self.kinds)

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        if self.setting.startswith("format="):
            return f"data.{self.setting} needs it"
        return f"data.{self.setting} names the field to use"


def problem_of(row: Mapping[str, Any], columns: Sequence[Column]) -> str | None:
    """Return what is wrong with a row, as the end of a sentence; None if it has all columns."""
    for column in columns:
        if column.name not in row:
            return f"has no {column.kind} {column.name!r}; {column.remedy}"
        value = row[column.name]
        if not isinstance(value, column.kinds):
            return f"has {json.dumps(value, default=str)[:40]} as {column.name!r}, which is no {column.held}"
    return None


def check_unicode(texts: Mapping[str, str]) -> None:
    """Refuse texts that are not Unicode: JSON can write half a surrogate pair.

    Raises:
        ValueError: one is not.
    """
    for text in texts.values():
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"holds half of a surrogate pair, {error.object[error.start]!a}, which is no character"
                ) from error
