"""Values as people type them: text that Hydra's grammar cannot read, or reads as something else, is quoted for it."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from splitlearn.settings.commands import SCHEMAS
from splitlearn.settings.fields import settings_of
from splitlearn.settings.targets import TARGETS

# Text, or a list of texts.
_TEXT_OR_LIST = ("data.source", "data.val_source")


def quoted(text: str, literal: bool = True) -> str:
    """Return text in quotes such that Hydra reads just that text.

    Args:
        text: any characters.
        literal: also ``${...}`` stands for itself.
    """
    return str(QuotedString(without_interpolation(text) if literal else text, Quote.single).with_quotes())


def with_literal_text(override: str, command: str, sweeps: bool = False) -> str:
    """Quote the value of an override if its setting is text and Hydra would not read it as that text.

    ``run=my run (1)`` and ``data.source=/a b/set[1].jsonl`` mean what they say. What Hydra reads as a quoted text is that text,
    and lists, dictionaries and null stay what they are where a setting takes them.

    Args:
        override: one argument, ``name=value``.
        command: whose setting it is.
        sweeps: commas separate the values of a sweep.

    Returns:
        The override that Hydra can read.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    kind = text_settings(command).get(name)
    if not equals or kind is None or key.startswith("~"):
        return override
    parsed = parse_override(override)
    if parsed is not None:
        is_sweep = parsed.is_sweep_override()
        inner = parsed._value
        if inner is None or isinstance(inner, QuotedString) or (is_sweep and sweeps):
            return override
        if kind != "literal" and isinstance(inner, str) and not is_sweep:
            return override
        # In quotes, so each is a text of its own.
        if kind == "literal" and isinstance(inner, list) and all(isinstance(each, QuotedString) for each in inner):
            return override
        if kind == "text or list" and isinstance(inner, list) and not is_sweep:
            return override
    if not value:
        return override
    return f"{key}={quoted(value, literal=kind == 'literal')}"


@cache
def text_settings(command: str) -> dict[str, str]:
    """Return by their names a command's settings that are text: ``"text"``, ``"text or list"`` or ``"literal"``."""
    return _texts(SCHEMAS[command], "") if command in SCHEMAS else {}


def _texts(schema: type, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, kind, rule in settings_of(schema):
        name = f"{prefix}{key}"
        if is_dataclass(kind) and isinstance(kind, type):
            found |= _texts(kind, f"{name}.")
        elif key == "data" and rule.holds == "object":
            for target, inner in TARGETS.items():
                found |= _texts(inner, f"{name}.") if target.startswith("splitlearn.data.") else {}
        elif rule.literal:
            found[name] = "literal"
        elif name in _TEXT_OR_LIST:
            found[name] = "text or list"
        elif str in (get_args(kind) or (kind,)):
            found[name] = "text"
    return found


def parse_override(override: str) -> Any:
    """Return what Hydra reads in one override; None if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def without_interpolation(text: str) -> str:
    """Return the text that OmegaConf reads as just ``text``, also where that holds ``${...}``."""
    # OmegaConf takes an even number of backslashes before ${ as half as many, and an odd one as an escaped ${.
    out = []
    for before in text.split("${"):
        out.append(before)
    escaped = [piece + "\\" * (len(piece) - len(piece.rstrip("\\"))) for piece in out[:-1]]
    return "\\${".join([*escaped, out[-1]])
