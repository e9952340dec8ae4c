"""Inputs for the fuzzer: files of a target, damaged as bytes, or changed as what they are and written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzz.torch_damage import damaged_torch
from tests.fuzz.values import HOSTILE, NAMES, changed_tree

# Stands in a written text where another text, which no value is written as, comes.
_MARK = "put-here"
_DEEP = 30_000
_RAW_JSON = [
    "[" * _DEEP, '{"a":' * _DEEP, "[" * 70 + "]" * 70, "9" * 5000, "-" + "9" * 400, "1e999", "-1e999", "NaN", "1" + "0" * 30,
    '"\\ud800"', '"\\ud83d\\ude42"', '"\\u0000"', "{}{}", "", "nul", "'a'", "[1,]", "// a", "\ufeff1", '{"a": 1, "a": []}',
]  # fmt: skip
_RAW_YAML = [
    "!!int ''", "!!float ''", "!!bool x", "!!null x", "!!timestamp x", "!!binary x", "!!set {a, b}", "!!set [1]", "!!omap 3",
    "!!omap [a: 1]", "!!pairs [1]", "!!str [a]", "!!merge x", "!!python/object/apply:os.system [id]", "!!python/name:os.system",
    "!foo bar", "2001-99-99", "2001-01-01", "2001-01-01T99:99:99Z", "1:" * 300 + "1.5", "1:" * 300 + "1", "0x" + "f" * 5000,
    "0b" + "1" * 5000, "9" * 5000, "0o7", ".inf", ".nan", "~", "&a [1, *a]", "&a [1]", "*a", "{<<: {a: 1}}", "{<<: 3}",
    "{[1]: 2}", "{{a: 1}: 2}", "? [1]", "|\n  a", "[" * 3000, "{a: " * 3000, "- - - 1", "%TAG ! x", "---", "...", "\t", "\x00",
    "\ufeff", "${oc.env:HOME}", "${a", '"\\ud800"', "'", "@a", "`a`", "=", "yes", "1_000", "1e3", "0.1.2", "190:20:30.15",
]  # fmt: skip


def inputs(form: str, seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return damaged files.

    Args:
        form: how the files are written: ``json``, ``yaml``, ``safetensors`` or ``torch``.
        seeds: files to begin from.
    """
    structured: Callable[[st.SearchStrategy[bytes]], st.SearchStrategy[bytes]] = {
        "json": damaged_json,
        "yaml": damaged_yaml,
        "safetensors": damaged_safetensors,
        "torch": damaged_torch,
    }[form]
    # By number: hypothesis would write out the seeds themselves in what it says of a strategy.
    chosen = st.integers(0, len(seeds) - 1).map(seeds.__getitem__)
    # Damaged bytes seldom pass the first check of a file.
    return st.one_of(structured(chosen), structured(chosen), structured(chosen), damaged_bytes(chosen))


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a file some of whose bytes are others, lost, doubled, or of another file."""
    content = bytearray(draw(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(start + draw(st.integers(1, 64)), len(content))
        kind = draw(st.sampled_from(["change", "flip", "cut", "remove", "double", "splice", "insert"]))
        if kind == "change":
            content[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif kind == "flip" and start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[start:]
        elif kind == "remove":
            del content[start:end]
        elif kind == "double":
            content[start:start] = content[start:end] * draw(st.sampled_from([1, 2, 1000]))
        elif kind == "splice":
            other = draw(seeds)
            content[start:] = other[draw(st.integers(0, len(other))) :]
        else:
            content[start:start] = draw(
                st.sampled_from([b"\0", b"\xff", b"\r\n", b"\xef\xbb\xbf", b"PK\x05\x06", b"[", b'{"', b"../"])
            )
    return bytes(content)


def _value_of(content: bytes, read: Callable[[str], Any]) -> Any:
    try:
        return read(content.decode("utf-8"))
    except Exception:
        # An input that was found once need not be a text that can be read.
        return {}


@st.composite
def damaged_json(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a JSON file with other values, or one that no value is written as."""
    tree = _value_of(draw(seeds), json.loads)
    raw = draw(st.none() | st.none() | st.sampled_from(_RAW_JSON))
    for _ in range(draw(st.integers(1, 3))):
        tree = changed_tree(draw, tree, HOSTILE)
    if raw is not None:
        tree = changed_tree(draw, tree, st.just(_MARK))
    return _json(tree).replace(f'"{_MARK}"', raw or "").encode("utf-8", "surrogatepass")


def _json(tree: Any) -> str:
    try:
        return json.dumps(tree)
    except (TypeError, ValueError):
        return json.dumps(str(tree)[:1000])


@st.composite
def damaged_yaml(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a YAML file with other values, or one with what no run writes."""
    tree = _value_of(draw(seeds), yaml.safe_load)
    raw = draw(st.none() | st.sampled_from(_RAW_YAML))
    for _ in range(draw(st.integers(1, 3))):
        tree = changed_tree(draw, tree, HOSTILE)
    if raw is not None:
        tree = changed_tree(draw, tree, st.just(_MARK))
    try:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=draw(st.booleans()))
    except (yaml.YAMLError, ValueError):
        text = _json(tree)
    return text.replace(_MARK, raw or "").encode("utf-8", "surrogatepass")


@st.composite
def damaged_safetensors(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a safetensors file whose header says something else about the same bytes."""
    content = draw(seeds)
    length = int.from_bytes(content[:8], "little")
    data = content[8 + length :]
    header = _value_of(content[8 : 8 + length], json.loads)
    raw = draw(st.none() | st.none() | st.none() | st.sampled_from(_RAW_JSON))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["alike", "alike", "tree", "notes"]))
        if kind == "alike":
            _change_alike(draw, header)
        elif kind == "notes" and isinstance(header, dict):
            header["__metadata__"] = draw(st.dictionaries(NAMES, NAMES, max_size=3) | HOSTILE)
        else:
            header = changed_tree(draw, header, HOSTILE)
    if raw is not None:
        header = changed_tree(draw, header, st.just(_MARK))
    text = _json(header).replace(f'"{_MARK}"', raw or "").encode("utf-8", "surrogatepass")
    says = draw(
        st.just(len(text)) | st.just(len(text)) | st.sampled_from([0, 1, len(text) - 1, len(text) + 1, 2**30, 2**64 - 1])
    )
    data = draw(st.just(data) | st.just(data) | st.sampled_from([b"", data[:-1], data + b"\0", data * 2]))
    return max(says, 0).to_bytes(8, "little") + text + data


def _change_alike(draw: st.DrawFn, header: Any) -> None:
    """Change a tensor so that the header still fits the file: its name, the form of its numbers, or its shape."""
    entries = {name: entry for name, entry in header.items() if isinstance(entry, dict)} if isinstance(header, dict) else {}
    entries.pop("__metadata__", None)
    if not entries:
        return
    name, other = (draw(st.sampled_from(sorted(entries))) for _ in range(2))
    entry, kind = entries[name], draw(st.sampled_from(["rename", "dtype", "shape", "swap", "remove", "place"]))
    shape = entry.get("shape")
    if kind == "rename":
        header[draw(NAMES)] = header.pop(name)
    elif kind == "dtype":
        entry["dtype"] = draw(st.sampled_from(["F32", "I32", "U32", "F64", "F4", "F8_E8M0", "C64", "BOOL", "F16", "X"]))
    elif kind == "shape" and isinstance(shape, list):
        entry["shape"] = draw(st.permutations(shape) | st.just([*shape, 1]) | st.just([1] * 60 + shape) | st.just([0, *shape]))
    elif kind == "swap":
        header[name], header[other] = header[other], header[name]
    elif kind == "remove":
        del header[name]
    else:
        entry["data_offsets"] = entries[other].get("data_offsets")
