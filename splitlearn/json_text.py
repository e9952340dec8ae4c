"""Reading JSON that anybody may have written: size, counts and depth are bounded, so that time and memory are too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# The largest of published files, indexes of models with hundreds of experts in each layer, have some 20 MB.
MAX_BYTES = 64 * 2**20
# Objects, lists and their entries. A safetensors header has about 7 for each tensor.
MAX_ENTRIES = 4 * 10**6
# Recursive functions of Python that get the values end at some 1000.
MAX_DEPTH = 64
# A half of a character that is written as two escapes.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text that is not JSON, or is too large, deep or full: the message begins with where it stands."""


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        max_bytes: a larger one is refused before it is read.

    Raises:
        JsonError: it is no JSON, or larger, deeper or fuller than a file that is meant.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return parse_json(file.read(max_bytes + 1), str(path), max_bytes)


def read_json_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object, as `read_json` does.

    Raises:
        JsonError: it holds something else, or as `read_json`.
        OSError: it cannot be read.
    """
    return _object(read_json(path, max_bytes), str(path))


def parse_json(text: bytes, where: str, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value that a JSON text in UTF-8 stands for.

    Args:
        text: the text.
        where: where it stands, for messages.
        max_bytes: a longer text is refused before it is parsed.

    Raises:
        JsonError: it is no JSON, or longer, deeper or fuller than a text that is meant.
    """
    if len(text) > max_bytes:
        raise JsonError(f"{where} is longer than the {max_bytes:,} bytes that it may have")
    # Commas and brackets within texts count too; the bound leaves room for them.
    entries = sum(text.count(sign) for sign in (b"{", b"[", b","))
    if entries > MAX_ENTRIES:
        raise JsonError(f"{where} holds more than {MAX_ENTRIES:,} values")
    try:
        value = json.loads(text.decode("utf-8"))
        if _SURROGATE.search(text):
            # Such a text cannot be printed, or be a file's name.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise JsonError(f"{where} is not JSON (it holds half a character, \\u{ord(error.object[error.start]):x})") from error
    except ValueError as error:
        raise JsonError(f"{where} is not JSON ({error})") from error
    except RecursionError as error:
        raise JsonError(f"{where} is nested too deeply") from error
    _check_depth(value, where)
    return value


def parse_json_object(text: bytes, where: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the object that a JSON text stands for, as `parse_json` does.

    Raises:
        JsonError: it stands for something else, or as `parse_json`.
    """
    return _object(parse_json(text, where, max_bytes), where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonError(f"{where} holds {_kind(value)} where an object with fields is needed")
    return value


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _check_depth(value: Any, where: str) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise JsonError(f"{where} is nested too deeply")
        inner = [entry.values() if isinstance(entry, dict) else entry for entry in level if isinstance(entry, (dict, list))]
        level = [entry for entries in inner for entry in entries if isinstance(entry, (dict, list))]
