"""Prompts made from several columns by a text with placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any


class PromptTemplate:
    """A text with a column's name between braces where its value goes; ``{{`` and ``}}`` are braces.

    Only names of columns are looked up: no attribute, index or format of a value can be asked for.

    Args:
        text: the template. A backslash before n or t stands for a new line or a tab, since Hydra's command line has no other
            way to write them.

    Raises:
        ValueError: it has no placeholder, or one that is not a column's name.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"data.prompt_template is {text!r}; give a text such as '{{instruction}}\\n{{input}}'")
        self.text = text.replace("\\n", "\n").replace("\\t", "\t")
        try:
            self._pieces = list(Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"data.prompt_template is {text!r}: {error}; write a brace as {{{{ or }}}}") from error
        for _, name, form, conversion in self._pieces:
            if name is not None and (not name or form or conversion):
                raise ValueError(
                    f"data.prompt_template is {text!r}; between braces stands only the name of a column, and a brace is "
                    "written {{ or }}"
                )
        if not self.columns:
            raise ValueError(f"data.prompt_template is {text!r}, which names no column; write one between braces")

    @property
    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        return list(dict.fromkeys(name for _, name, _, _ in self._pieces if name is not None))

    def check(self, present: Sequence[str], source: str) -> None:
        """Refuse placeholders that are not columns.

        Raises:
            ValueError: one is not.
        """
        for name in self.columns:
            if name not in present:
                raise ValueError(
                    f"data.prompt_template has {{{name}}}, but {source} has no column {name!r} but {', '.join(present)}"
                )

    def fill(self, row: Mapping[str, Any]) -> str:
        """Return the text with a row's values; one that is missing is empty.

        Raises:
            ValueError: a value is neither a text nor a number.
        """
        return "".join(literal + ("" if name is None else self._value(row, name)) for literal, name, _, _ in self._pieces)

    def _value(self, row: Mapping[str, Any], name: str) -> str:
        value = row.get(name)
        if value is None:
            return ""
        if not isinstance(value, (str, int, float)):
            raise ValueError(f"{name!r} is {str(value)[:40]!r}, which data.prompt_template cannot write")
        return str(value)
