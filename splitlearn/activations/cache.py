"""A cache of the smashed data that frozen parts compute for each row of the data.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.activations.store import RowStore, row_bytes
from splitlearn.boundary import CallKind, Codec, CodecContext, Columns, codec_class
from splitlearn.embedded import cache_folder
from splitlearn.files import write_text
from splitlearn.memory import GIB
from splitlearn.naming import named
from splitlearn.randomness import forked_random_state

KEEP = ("none", "memory", "disk")
# Codecs without state or noise, whose columns have one entry for each row; by the names of settings, of older releases first.
_CODECS = {"none": "exact", "bfloat16": "bf16", "int8": "int8", "exact": "exact", "bf16": "bf16"}
# From places in a batch, and whether the call is a trial, to smashed data (B, T, D).
Compute = Callable[[torch.Tensor, bool], torch.Tensor]


@dataclass(frozen=True)
class CacheSettings:
    """Whether and how to keep the smashed data of frozen parts.

    Attributes:
        keep: ``"none"``, ``"memory"``, or ``"disk"``, where later runs with the same model, cut and data find it.
        max_gib: the most GiB to keep; rows beyond it are computed anew each time.
        codec: ``"none"`` or ``"exact"`` keeps values as they are; ``"bfloat16"`` or ``"bf16"``, and ``"int8"``, take less room,
            and losses then differ.
    """

    keep: str = "none"
    max_gib: float = 8.0
    codec: str = "none"

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> CacheSettings:
        """Make settings from plain values, for example a configuration file's.

        Args:
            values: attributes by name; absent ones take their defaults, and None takes all defaults.

        Returns:
            The checked settings.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        values = dict(values or {})
        unknown = [name for name in values if name not in cls.__dataclass_fields__]
        if unknown:
            raise ValueError(f"{named(unknown[0])} is not known; there are {', '.join(cls.__dataclass_fields__)}")
        made = cls(**values)
        for name, allowed in {"keep": KEEP, "codec": tuple(_CODECS)}.items():
            if getattr(made, name) not in allowed:
                raise ValueError(f"{named(name)} is {getattr(made, name)!r}; use one of {', '.join(allowed)}")
        if isinstance(made.max_gib, bool) or not isinstance(made.max_gib, (int, float)) or made.max_gib <= 0:
            raise ValueError(f"{named('max_gib')} is {made.max_gib!r}; it must be a positive number")
        return made


class ActivationCache:
    """Keeps the smashed data of frozen parts for the rows of one data set, as far as there is room.

    Args:
        settings: how to keep them.
        num_rows: number of rows in the data set.
        key: plain values of all that decides the smashed data: model, cut, data, dtype.
        max_bytes: the most bytes to keep; None takes that of the settings.

    Attributes:
        num_bytes: bytes of the rows for which there is room; 0 until the first are known.
    """

    def __init__(self, settings: CacheSettings, num_rows: int, key: Mapping[str, Any], max_bytes: int | None = None) -> None:
        self._codec: Codec = codec_class(_CODECS[settings.codec])()
        self._keep = settings.keep
        self._num_rows = num_rows
        self._key = {**key, "codec": settings.codec, "num_rows": num_rows}
        self._max_bytes = int(settings.max_gib * GIB) if max_bytes is None else max_bytes
        self._store: RowStore | None = None
        self._dtype = torch.get_default_dtype()
        self.num_bytes = 0

    def fetch(self, rows_B: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return the smashed data of a batch, computing only those of rows that are not kept yet.

        Args:
            rows_B: the rows' numbers in the data set, shape (B), on the CPU.
            compute: from places in the batch, a tensor of indices, to these rows' smashed data (B, T, D); called a second
                time, as a trial, to see whether it gives the same result.

        Returns:
            Smashed data of shape (B, T, D), without gradients.

        Raises:
            ValueError: computing twice gives two results, so the frozen parts drop activations at random.
        """
        known_B = torch.zeros_like(rows_B, dtype=torch.bool) if self._store is None else self._store.has(rows_B)
        missing = (~known_B).nonzero().flatten()
        if len(missing) == 0 and self._store is not None:
            return self._decode(self._store.read(rows_B), self._dtype)
        with torch.no_grad():
            fresh = compute(missing, False)
            if self._store is None:
                _check_no_chance(fresh, compute, missing)
        self._dtype = fresh.dtype
        encoded = self._codec.encode(fresh, _context(fresh.shape))
        # Use the decoded values in the first epoch too, so that every epoch sees the same.
        used = self._decode(encoded, fresh.dtype)
        on_cpu = {name: column.cpu() for name, column in encoded.items()}
        if self._store is None:
            self._store = self._open(on_cpu)
        self._store.write(rows_B[missing], on_cpu)
        if not known_B.any():
            return used
        whole = used.new_empty(len(rows_B), *used.shape[1:])
        whole[missing.to(whole.device)] = used
        kept = known_B.nonzero().flatten()
        whole[kept.to(whole.device)] = self._decode(self._store.read(rows_B[kept]), fresh.dtype).to(whole.device)
        return whole

    def _decode(self, columns: Columns, dtype: torch.dtype) -> torch.Tensor:
        return self._codec.decode(columns, dtype, _context(columns["values"].shape))

    def _open(self, example: dict[str, torch.Tensor]) -> RowStore:
        room = min(self._num_rows, self._max_bytes // max(row_bytes(example), 1))
        self.num_bytes = room * row_bytes(example)
        if self._keep == "memory":
            return RowStore(example, room)
        shapes = {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in sorted(example.items())}
        written = json.dumps({**self._key, "room": room, "shapes": shapes}, sort_keys=True, indent=2)
        folder = cache_folder() / "activations" / hashlib.sha256(written.encode()).hexdigest()[:32]
        store = RowStore(example, room, folder)
        write_text(folder / "key.json", written)
        return store


def _context(shape: torch.Size) -> CodecContext:
    """Return what a codec without state is told: what is kept crosses no cut."""
    return CodecContext(CallKind.EVALUATE, "", "activation", shape)


def _check_no_chance(first: torch.Tensor, compute: Compute, places: torch.Tensor) -> None:
    with forked_random_state():
        torch.manual_seed(1 + torch.initial_seed() % 2**32)
        again = compute(places, True)
    if not torch.equal(first, again):
        raise ValueError(
            "the frozen parts drop activations at random, so their smashed data cannot be kept; take activation_cache=none, or "
            "set the model's dropout to 0"
        )
