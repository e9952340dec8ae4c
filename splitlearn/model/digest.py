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
        quantized: names in the unsplit model of parameters to leave out, because a run held them quantized.
    """
    named = ((part.blueprint.global_name(name, part.spec), tensor) for name, tensor in part.model.named_parameters())
    return digest(((name, tensor) for name, tensor in named if name not in quantized), with_quantized=False)


def digest(tensors: Iterable[tuple[str, torch.Tensor]], with_quantized: bool = True) -> str:
    """Return a digest of the names and values of tensors, at the speed at which memory is read.

    The hash is not cryptographic: it detects accidental differences and training, not forgery.

    Args:
        tensors: names and tensors.
        with_quantized: whether quantized ones count. Quantizers store the same weights differently on different devices.

    Returns:
        32 hexadecimal digits.
    """
    checksum = xxhash.xxh3_128()
    for name, tensor in tensors:
        if is_quantized(tensor) and not with_quantized:
            continue
        checksum.update(name.encode())
        for raw in raw_tensors(tensor):
            checksum.update(f"{raw.dtype} {tuple(raw.shape)}".encode())
            # numpy has no bfloat16, so hash the bytes.
            checksum.update(raw.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return checksum.hexdigest()
