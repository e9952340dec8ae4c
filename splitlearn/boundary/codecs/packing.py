"""Whole numbers of a few bits, packed into bytes without gaps.

Shapes: D numbers of one token, in the last dimension.
"""

from __future__ import annotations

import torch

# Eight numbers of b bits are b bytes, which a word of 64 bits holds.
_AT_ONCE = 8


def pack(numbers: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Return numbers as bytes.

    Args:
        numbers: from 0 to ``2 ** num_bits - 1``, shape (..., D).
        num_bits: bits of each, from 1 to 7.

    Returns:
        uint8 of shape (..., ceil(D x num_bits / 8)).
    """
    width = numbers.shape[-1]
    padded = torch.nn.functional.pad(numbers.to(torch.int64), (0, -width % _AT_ONCE))
    shifts = torch.arange(_AT_ONCE, device=numbers.device) * num_bits
    words = (padded.unflatten(-1, (-1, _AT_ONCE)) << shifts).sum(-1, keepdim=True)
    # The machine is little-endian, as all that torch runs on: the first bytes of a word are its lowest bits.
    packed = words.view(torch.uint8)[..., :num_bits].flatten(-2)
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
    filled = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % num_bits))
    words = torch.nn.functional.pad(filled.unflatten(-1, (-1, num_bits)), (0, _AT_ONCE - num_bits)).contiguous()
    shifts = torch.arange(_AT_ONCE, device=packed.device) * num_bits
    numbers = (words.view(torch.int64) >> shifts) & (2**num_bits - 1)
    return numbers.flatten(-2)[..., :width]


def num_packed_bytes(width: int, num_bits: int) -> int:
    """Return how many bytes `pack` makes of one token's numbers.

    Args:
        width: how many numbers.
        num_bits: bits of each.
    """
    return -(-width * num_bits // 8)
