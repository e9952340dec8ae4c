"""The ways in which data sets write instructions: one table from a format's name to its columns and what is read from a row.

A row is kept as JSON: with ``prompt`` and ``completion``, each a text or messages; or with ``messages``; or with a ``text``, of
which all is learned. ``plain_prompt`` is the prompt for models without a chat template, ``system`` the system message, and
``tools`` what can be called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from splitlearn.data.bad_rows import Column
from splitlearn.data.file_rows import Row
from splitlearn.data.messages import read_messages, read_tools
from splitlearn.data.prompt_template import PromptTemplate
from splitlearn.data.reading import Layout

Example = dict[str, Any]
# The text around prompts that the Alpaca data set was published with.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_PROMPT, _COMPLETION = "prompt", "completion"


@dataclass(frozen=True)
class FormatSettings:
    """What the user says of the rows.

    Attributes:
        format: a format's name, or ``auto``.
        prompt_field: the column of prompts.
        completion_field: the column of completions.
        messages_field: the column of conversations; None leaves it to the format.
        prompt_template: what prompts are made of several columns by; None for nothing.
    """

    format: str = "auto"
    prompt_field: str = _PROMPT
    completion_field: str = _COMPLETION
    messages_field: str | None = None
    prompt_template: str | None = None


def _prompt_completion(settings: FormatSettings) -> Layout:
    names = {"prompt_field": settings.prompt_field, "completion_field": settings.completion_field}

    def read(row: Row) -> Example:
        prompt, completion = (row[name] for name in names.values())
        return {
            "prompt": prompt if isinstance(prompt, str) else read_messages(prompt),
            "completion": completion if isinstance(completion, str) else read_messages(completion),
            **_tools(row),
        }

    columns = tuple(Column(name, setting, (str, list)) for setting, name in names.items())
    return _layout("prompt_completion", columns, read, ("tools",))


def _messages(settings: FormatSettings) -> Layout:
    name = settings.messages_field or "messages"

    def read(row: Row) -> Example:
        return {"messages": read_messages(row[name]), **_tools(row)}

    return _layout("messages", (Column(name, "messages_field", (list,)),), read, ("tools",))


def _sharegpt(settings: FormatSettings) -> Layout:
    name = settings.messages_field or "conversations"

    def read(row: Row) -> Example:
        messages = read_messages(row[name])
        system, turns = [], messages
        if messages and messages[0]["role"] == "system":
            system, turns = messages[:1], messages[1:]
        # Many conversations were cut into pieces, which may begin with an answer to nothing.
        while turns and turns[0]["role"] in ("assistant", "tool"):
            turns = turns[1:]
            layout.notes["answers_to_nothing"] += 1
        return {"messages": [*system, *turns], **_tools(row), **_system(row)}

    layout = _layout("sharegpt", (Column(name, "messages_field", (list,)),), read, ("tools", "system"))
    return layout


def _alpaca(settings: FormatSettings) -> Layout:
    def read(row: Row) -> Example:
        instruction, context, system = row["instruction"], row.get("input"), _system(row)
        if context is not None and not isinstance(context, str):
            raise ValueError(f"'input' is {str(context)[:40]!r}, which is no text")
        has_input = bool(context and context.strip())
        plain = _ALPACA_WITH_INPUT if has_input else ALPACA_PROMPT
        prompt = f"{instruction}\n\n{context}" if has_input else instruction
        return {
            "prompt": prompt,
            "plain_prompt": plain.format(instruction=instruction, input=context),
            "completion": row["output"],
            **system,
        }

    columns = tuple(Column(name, "format=alpaca") for name in ("instruction", "output"))
    return _layout("alpaca", columns, read, ("input", "system"))


def _text(settings: FormatSettings) -> Layout:
    return _layout("text", (Column("text", "format=text"),), lambda row: {"text": row["text"]})


FORMATS: dict[str, Callable[[FormatSettings], Layout]] = {
    "prompt_completion": _prompt_completion,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "text": _text,
}
# A text column is in many data sets of other formats, too.
_NOT_GUESSED = ("text",)


def check_format(settings: FormatSettings) -> None:
    """Refuse a format that there is not, and settings that exclude each other.

    Raises:
        ValueError: there is one.
    """
    if settings.format != "auto" and settings.format not in FORMATS:
        raise ValueError(f"data.format is {settings.format!r}; use auto or one of {', '.join(FORMATS)}")
    if settings.prompt_template is not None:
        if settings.messages_field is not None or settings.format in ("messages", "sharegpt", "text"):
            raise ValueError(
                "data.prompt_template makes prompts, but the rows are to be read as conversations or texts; leave one out"
            )
        PromptTemplate(settings.prompt_template)
    if settings.messages_field is not None and settings.format not in ("auto", "messages", "sharegpt"):
        raise ValueError(f"data.messages_field is set, but data.format={settings.format} has no messages; leave one out")


def choose_format(columns: Sequence[str], source: str, settings: FormatSettings) -> Layout:
    """Return how rows are read: as the settings say, or as the only format whose columns are there.

    Args:
        columns: the rows' columns.
        source: what to call the rows in messages.
        settings: what the user says.

    Raises:
        ValueError: no format fits, or several do.
    """
    check_format(settings)
    if settings.prompt_template is not None:
        return _templated(columns, source, settings)
    if settings.format != "auto":
        return FORMATS[settings.format](settings)
    if settings.messages_field is not None:
        return _messages(settings)
    if (settings.prompt_field, settings.completion_field) != (_PROMPT, _COMPLETION):
        return _prompt_completion(settings)
    layouts = {name: make(settings) for name, make in FORMATS.items() if name not in _NOT_GUESSED}
    fitting = [layout for layout in layouts.values() if all(column.name in columns for column in layout.columns)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = [layout.name for layout in fitting]
        raise ValueError(f"{source} fits several formats: {', '.join(names)}; choose one, such as data.format={names[0]}")
    known = "; ".join(f"{name} ({', '.join(column.name for column in layout.columns)})" for name, layout in layouts.items())
    raise ValueError(
        f"{source} has the columns {', '.join(columns)}, which fit no format: {known}. Name yours with data.prompt_field and "
        "data.completion_field, or data.messages_field; make prompts of several with data.prompt_template; or learn whole "
        "texts with data=text_files"
    )


def _templated(columns: Sequence[str], source: str, settings: FormatSettings) -> Layout:
    template = PromptTemplate(str(settings.prompt_template))
    template.check(columns, source)
    name = settings.completion_field
    if name == _COMPLETION and name not in columns and "output" in columns:
        name = "output"

    def read(row: Row) -> Example:
        return {"prompt": template.fill(row), "completion": row[name]}

    return _layout("prompt_template", (Column(name, "completion_field"),), read, tuple(template.columns))


def _layout(name: str, columns: tuple[Column, ...], read: Callable[[Row], Example], optional: tuple[str, ...] = ()) -> Layout:
    # Kept as JSON: in a table all rows' messages would have the same fields, filled up with nothing.
    return Layout(name, columns, lambda row: {"example": json.dumps(read(row), ensure_ascii=False, default=str)}, optional)


def _tools(row: Row) -> Example:
    tools = read_tools(row.get("tools"))
    return {"tools": tools} if tools else {}


def _system(row: Row) -> Example:
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise ValueError(f"'system' is {str(system)[:40]!r}, which is no text")
    return {"system": system} if system and system.strip() else {}
