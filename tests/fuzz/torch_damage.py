"""Torch files for the fuzzer: with other values and tensors, with other pickles, with other entries in their archive."""

from __future__ import annotations

import collections
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzz.values import HOSTILE, NAMES, changed_tree

_HUGE = 10**10
_MOST_NUMBERS = 10**6


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _lists_of_one_list(depth: int = 40) -> list[Any]:
    """Return a value that is small in memory and has 2**40 entries for whoever walks over it."""
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def _deep(depth: int = 400) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


_CALLS: list[Any] = [
    _Call(os.system, "true"),
    _Call(eval, "1"),
    _Call(os.listdir, "/"),
    _Call(bytearray, _HUGE),
    _Call(torch.Tensor, _HUGE),
    _Call(torch.Tensor, 3),
    _Call(torch.Size, [3]),
    _Call(torch.device, "cuda:7"),
    _Call(collections.Counter, "aab"),
    _Call(set, [1, 2]),
    _Call(complex, 1.0, 2.0),
    _Call(torch._utils._rebuild_parameter, 3, True, collections.OrderedDict()),
]
_ODD: list[Callable[[], Any]] = [
    _within_itself,
    _lists_of_one_list,
    _deep,
    lambda: {1: 2},
    lambda: {None: None},
    lambda: {(1, 2): 3},
    lambda: (1, 2),
    lambda: b"bytes",
    lambda: bytearray(100),
    lambda: torch.float16,
    lambda: torch.Size([2, 3]),
    lambda: torch.device("meta"),
    lambda: 1 + 2j,
    lambda: {1, 2},
    lambda: 2**5000,
    lambda: collections.OrderedDict(a=1),
]
_TENSORS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda tensor: torch.zeros(3),
    lambda tensor: torch.tensor(2.0),
    lambda tensor: torch.zeros(0),
    lambda tensor: torch.zeros(1).expand(_HUGE),
    lambda tensor: torch.zeros(1, 1).expand(10**5, 10**5),
    lambda tensor: torch.zeros(1).expand(tensor.shape) if tensor.dim() else torch.zeros(1),
    lambda tensor: torch.zeros(0, _HUGE),
    lambda tensor: torch.full(tensor.shape, torch.nan),
    lambda tensor: tensor.long(),
    lambda tensor: tensor.bool(),
    lambda tensor: tensor.half(),
    lambda tensor: tensor.double(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.to(torch.float8_e4m3fn),
    lambda tensor: tensor.t() if tensor.dim() == 2 else tensor[None],
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.to("meta"),
    lambda tensor: torch.nn.Parameter(tensor.float()),
    lambda tensor: torch.nested.nested_tensor([tensor.float()]),
]


def damaged_torch(seeds: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return torch files that hold something else than those given, or are written otherwise."""
    return st.one_of(
        _other_values(seeds), _other_values(seeds), _other_values(seeds), _other_pickle(seeds), _other_entries(seeds)
    )


def _load(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        # An input that was found once need not be a file that can be read.
        return {}


def _save(value: Any) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except (RecursionError, RuntimeError, NotImplementedError, TypeError):
        return b""
    return file.getvalue()


@st.composite
def _other_values(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    tree = _load(draw(seeds))
    odd = st.sampled_from(_ODD).map(lambda make: make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["plain", "odd", "call", "tensor", "tensor"]))
            if kind == "tensor":
                tree = _with_other_tensor(draw, tree)
            else:
                tree = changed_tree(draw, tree, {"plain": HOSTILE, "odd": odd, "call": st.sampled_from(_CALLS)}[kind])
        return _save(tree)


def _with_other_tensor(draw: st.DrawFn, tree: Any) -> Any:
    change = draw(st.sampled_from(_TENSORS))
    holders: list[tuple[Any, Any]] = []
    waiting, seen = [tree], set()
    while waiting:
        value = waiting.pop(0)
        if id(value) in seen or not isinstance(value, (dict, list)):
            continue
        seen.add(id(value))
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        holders += [(value, key) for key, entry in entries if isinstance(entry, torch.Tensor)]
        waiting += [entry for _, entry in entries]
    if not holders:
        return change(torch.ones(2, 2))
    holder, key = holders[draw(st.integers(0, len(holders) - 1))]
    if holder[key].numel() > _MOST_NUMBERS:
        # A tensor that one number stands for would fill the memory here.
        return tree
    try:
        holder[key] = change(holder[key])
    except RuntimeError:
        holder[key] = torch.zeros(1)
    return tree


@st.composite
def _other_pickle(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a torch file with some bytes of its pickle changed, or with another pickle."""
    entries = _entries(draw(seeds))
    for name, content in entries:
        if not name.endswith("data.pkl"):
            continue
        if draw(st.integers(0, 3)) == 0:
            value = draw(HOSTILE | st.sampled_from(_CALLS))
            content[:] = pickle.dumps(value, protocol=draw(st.sampled_from([0, 2, 4])))
            continue
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, max(len(content) - 1, 0)))
            kind = draw(st.sampled_from(["change", "remove", "insert"]))
            if kind == "change":
                content[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            elif kind == "remove":
                del content[place : place + draw(st.integers(1, 8))]
            else:
                content[place:place] = draw(
                    st.sampled_from([b"0", b"(", b"}", b"]", b"R", b"b", b"Q", b".", b"K\xff", b"\x8a\xff"])
                )
    return _archive(entries)


@st.composite
def _other_entries(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Draw a torch file with an entry more or less, of another name, of another content, or compressed."""
    entries = _entries(draw(seeds))
    for _ in range(draw(st.integers(1, 2))):
        if not entries:
            break
        number = draw(st.integers(0, len(entries) - 1))
        name, content = entries[number]
        kind = draw(st.sampled_from(["rename", "remove", "double", "cut", "grow", "order", "add"]))
        if kind == "rename":
            entries[number] = (draw(NAMES | NAMES.map(lambda other: f"archive/{other}")), content)
        elif kind == "remove":
            del entries[number]
        elif kind == "double":
            entries.append((name, bytearray(draw(st.binary(max_size=20)))))
        elif kind == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif kind == "grow":
            content.extend(bytes(draw(st.integers(1, 200))))
        elif kind == "order":
            entries[number], entries[0] = entries[0], entries[number]
        else:
            entries.append(
                (draw(st.sampled_from(["archive/constants.pkl", "constants.pkl", "archive/byteorder"])), bytearray(b"big"))
            )
    return _archive(entries, draw(st.sampled_from([zipfile.ZIP_STORED] * 5 + [zipfile.ZIP_DEFLATED])))


def _entries(content: bytes) -> list[tuple[str, bytearray]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [(entry.filename, bytearray(archive.read(entry))) for entry in archive.infolist()]
    except Exception:
        # As in `_load`.
        return []


def _archive(entries: list[tuple[str, bytearray]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        # zipfile warns of two entries of one name.
        warnings.simplefilter("ignore")
        for name, content in entries:
            try:
                archive.writestr(name, bytes(content))
            except (UnicodeEncodeError, ValueError, IndexError):
                archive.writestr("odd", bytes(content))
    return file.getvalue()
