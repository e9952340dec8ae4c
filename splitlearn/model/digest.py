"""Telling models with equal configurations apart by their weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash

from splitlearn.model.quantized import is_quantized, raw_tensors
from splitlearn.model.split_model import SplitModel


def part_digest(part: SplitModel, quantized: frozenset[str] = frozenset()) -> str:
    """Return a digest of a part's parameters as they are in the base checkpoint.

    Args:
        part: the part, before adapters or training change it.
        quantized: names in the unsplit model of parameters that do not count, since a run had them in few bits.
    """
    named = ((part.blueprint.global_name(name, part.spec), each) for name, each in part.model.named_parameters())
    return digest(((name, each) for name, each in named if name not in quantized), with_quantized=False)


def digest(tensors: Iterable[tuple[str, torch.Tensor]], with_quantized: bool = True) -> str:
    """Return a digest of the names and values of tensors, at the speed at which memory is read.

    It tells weights apart that differ by chance or training; it is no protection against somebody who forges them.

    Args:
        tensors: names and tensors.
        with_quantized: whether quantized ones count. The same weights are stored in other ways on other devices.
    """
    found = xxhash.xxh3_128()
    for name, tensor in tensors:
        if is_quantized(tensor) and not with_quantized:
            continue
        found.update(name.encode())
        for each in raw_tensors(tensor):
            found.update(f"{each.dtype} {tuple(each.shape)}".encode())
            found.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
