"""What a setting may be beyond its type: written in a schema as ``Annotated[int, Rule(least=1)]``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints


@dataclass(frozen=True)
class Rule:
    """Limits of a setting's values, and how the setting is read.

    Attributes:
        least: the smallest value.
        above: what a value must exceed.
        choices: the only values there are.
        words: what may be written in the place of a number.
        holds: ``"object"``: the settings of one object, its class as ``_target_`` and the arguments; ``"objects"``: of several,
            each under a name of its own.
        each: the schema of every group in it; the groups have names of their own.
        literal: sentences: on the command line every character stands for itself.
    """

    least: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()
    holds: Literal["object", "objects"] | None = None
    each: type | None = None
    literal: bool = False


def settings_of(schema: type) -> Iterator[tuple[str, Any, Rule]]:
    """Yield the name, type and rule of each field of a schema."""
    plain, annotated = get_type_hints(schema), get_type_hints(schema, include_extras=True)
    for field in fields(schema):
        rules = [each for each in getattr(annotated[field.name], "__metadata__", ()) if isinstance(each, Rule)]
        yield field.name, plain[field.name], rules[0] if rules else Rule()
