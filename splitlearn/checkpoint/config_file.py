"""A model's ``config.json``, looked through before a library builds anything from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.json_text import JsonError, parse_json_object, read_json_object

_MAX_BYTES = 16 * 2**20
# The deepest published models have a few hundred layers.
MAX_LAYERS = 10_000
# How many modules, heads or classes a configuration may ask for: the largest mixtures have a few thousand experts.
_MAX_COUNT = 1_000_000
_MAX_NUMBER = 2**63 - 1
_LAYERS = re.compile(r"(?:^|_)(?:layers?|num_blocks|num_stages)$")
_COUNTS = re.compile(r"(?:^|_)(?:n|num)(?:_.*)?_(?:experts?|heads?|groups?|labels?|classes|codebooks|loops|blocks?)$")


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a ``config.json`` as plain values, and refuse numbers of layers and the like that no model has.

    transformers makes lists and modules of these numbers while it reads the configuration: a number too large would take
    memory without end.

    Args:
        path: the file.

    Raises:
        CheckpointError: it is no JSON object, or asks for something that no model is made of.
        FileNotFoundError: there is no such file.
    """
    try:
        settings = read_json_object(path, _MAX_BYTES)
    except JsonError as error:
        raise CheckpointError(f"{error}; fetch it again") from error
    return _checked(settings, str(path))


def parse_config(text: str, where: str) -> dict[str, Any]:
    """Return a configuration that is kept as a text in another file; as `read_config_file` otherwise.

    Raises:
        CheckpointError: it is no JSON object, or asks for something that no model is made of.
    """
    try:
        settings = parse_json_object(text.encode("utf-8", "surrogatepass"), where, _MAX_BYTES)
    except JsonError as error:
        raise CheckpointError(str(error)) from error
    return _checked(settings, where)


def _checked(settings: dict[str, Any], where: str) -> dict[str, Any]:
    _check_numbers(settings, where)
    refuse_kernels(settings, where)
    return settings


def _check_numbers(settings: dict[str, Any], where: str) -> None:
    """Refuse numbers that no model is made of.

    Raises:
        CheckpointError: there is one; the message names it.
    """
    for path, value in _numbers(settings):
        name = path.rsplit(".", 1)[-1]
        limit = MAX_LAYERS if _LAYERS.search(name) else _MAX_COUNT if _COUNTS.search(name) else _MAX_NUMBER
        if abs(value) > limit and (limit != _MAX_NUMBER or isinstance(value, int)):
            shown = str(value) if abs(value) <= _MAX_NUMBER else "a number of 20 digits or more"
            raise CheckpointError(f"{path} in {where} is {shown}, and no model has more than {limit:,}; is the file damaged?")


def refuse_kernels(settings: dict[str, Any], where: str) -> None:
    """Refuse a configuration that names attention to be fetched from a hub: transformers would download and run its code.

    Raises:
        CheckpointError: it does.
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            refuse_kernels(value, where)
        if name.endswith("attn_implementation"):
            for word in value.values() if isinstance(value, dict) else (value,):
                if isinstance(word, str) and "/" in word:
                    raise CheckpointError(
                        f"{name} in {where} is {word!r}, code of a hub's repository, which is not run; write 'sdpa' there"
                    )


def _numbers(settings: Any, path: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers of a configuration, with where they stand."""
    entries = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for name, value in entries:
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(value, (dict, list)):
            yield from _numbers(value, inner)
        elif type(value) in (int, float):
            yield inner, value
