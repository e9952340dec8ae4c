"""Whole numbers of a few bits, packed into bytes without gaps.

Shapes: D numbers of one token, in the last dimension.
"""

from __future__ import annotations

import torch


def pack(numbers: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Return numbers as bytes.

    Args:
        numbers: from 0 to ``2 ** num_bits - 1``, shape (..., D).
        num_bits: bits of each, from 1 to 7.

    Returns:
        uint8 of shape (..., ceil(D x num_bits / 8)).
    """
    width = numbers.shape[-1]
    at_once, dtype = _word(num_bits)
    padded = torch.nn.functional.pad(numbers.to(dtype), (0, -width % at_once))
    shifts = torch.arange(at_once, dtype=dtype, device=numbers.device) * num_bits
    words = (padded.unflatten(-1, (-1, at_once)) << shifts).sum(-1, keepdim=True, dtype=dtype)
    # The machine is little-endian, as all that torch runs on: the first bytes of a word are its lowest bits.
    packed = words.view(torch.uint8)[..., : at_once * num_bits // 8].flatten(-2)
    return packed[..., : num_packed_bytes(width, num_bits)].contiguous()


def unpack(packed: torch.Tensor, num_bits: int, width: int) -> torch.Tensor:
    """Return the numbers that `pack` was given.

    Args:
        packed: from `pack`.
        num_bits: bits of each number.
        width: how many there were (D).

    Returns:
        int64 of shape (..., D).
    """
    at_once, dtype = _word(num_bits)
    num_bytes = at_once * num_bits // 8
    filled = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % num_bytes)).unflatten(-1, (-1, num_bytes))
    words = torch.nn.functional.pad(filled, (0, dtype.itemsize - num_bytes)).contiguous().view(dtype)
    shifts = torch.arange(at_once, dtype=dtype, device=packed.device) * num_bits
    numbers = (words >> shifts) & (2**num_bits - 1)
    return numbers.flatten(-2)[..., :width].long()


def _word(num_bits: int) -> tuple[int, torch.dtype]:
    """Return how many numbers fill whole bytes, and a type that holds them: 1, 2 or 4 bits a byte, others 64 bits for 8."""
    return (8 // num_bits, torch.uint8) if 8 % num_bits == 0 else (8, torch.int64)


def num_packed_bytes(width: int, num_bits: int) -> int:
    """Return how many bytes `pack` makes of one token's numbers.

    Args:
        width: how many numbers.
        num_bits: bits of each.
    """
    return -(-width * num_bits // 8)
