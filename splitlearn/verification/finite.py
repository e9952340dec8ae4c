"""Finding weights that are not a number or infinite, by the name of their tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from splitlearn.checkpoint import CheckpointError, CheckpointSource

_CHUNK = 4 * 2**20
_SHOWN = 5


def count_non_finite(tensor: torch.Tensor) -> int:
    """Return how many numbers of a tensor are NaN or infinite; they are looked at a few million at a time."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return 0
    count = 0
    for chunk in tensor.detach().reshape(-1).split(_CHUNK):
        # Not every operation takes float8.
        numbers = chunk.float() if chunk.dtype.itemsize == 1 else chunk
        count += numbers.numel() - int(torch.isfinite(numbers).sum())
    return count


def find_non_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """Return the tensors that hold numbers that are NaN or infinite, by name, with how many."""
    counts = ((name, count_non_finite(tensor)) for name, tensor in tensors)
    return {name: count for name, count in counts if count}


def describe_non_finite(counts: dict[str, int]) -> str:
    """Return in words which tensors hold how many numbers that are none."""
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:_SHOWN])
    more = f" and {len(counts) - _SHOWN} more tensors" if len(counts) > _SHOWN else ""
    return f"numbers that are NaN or infinite in {shown}{more}"


def refuse_non_finite(source: CheckpointSource, names: Iterable[str]) -> None:
    """Refuse a checkpoint whose weights are not all finite numbers; all of them are read.

    Args:
        source: the checkpoint; from a hub its weights are downloaded.
        names: the tensors to look at.

    Raises:
        CheckpointError: some are NaN or infinite; the message names their tensors.
        FileNotFoundError: a file is missing.
    """
    counts = find_non_finite(_read(source, set(names)))
    if counts:
        raise CheckpointError(f"{source.name} holds {describe_non_finite(counts)}; fetch it again, or take another checkpoint")


def _read(source: CheckpointSource, names: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    by_file: dict[str, list[str]] = {}
    for name in sorted(names):
        by_file.setdefault(source.weight_map[name], []).append(name)
    for file, held in sorted(by_file.items()):
        shard = source.open_shards({file}, names)[file]
        yield from ((name, shard.read(name)) for name in held)
