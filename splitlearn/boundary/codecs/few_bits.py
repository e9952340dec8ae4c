"""Numbers of a token as levels of a few bits, with a scale for each group of them.

Shapes: D numbers of one token, in the last dimension; G groups of them.
"""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.boundary.codecs.packing import pack, unpack
from splitlearn.naming import named

# The smallest normal number of bfloat16: dividing by it is safe, also where all numbers are 0.
_TINY = torch.finfo(torch.bfloat16).tiny


def scales_of(numbers: torch.Tensor, num_levels: int) -> torch.Tensor:
    """Return scales that put the largest number of each row at the last level.

    Args:
        numbers: shape (..., D).
        num_levels: the last level.

    Returns:
        bfloat16 of shape (..., 1): it has the range of float32, so that scales of small gradients do not become 0.
    """
    largest = numbers.abs().amax(dim=-1, keepdim=True).float()
    return (largest / num_levels).clamp(min=_TINY).bfloat16()


class FewBits(Codec):
    """Rounds each number to a level between minus and plus the largest of its group.

    Args:
        group_size: numbers that share a scale; None gives all numbers of a token one scale.

    Raises:
        ValueError: the size is no positive whole number.
    """

    num_bits: int

    def __init__(self, group_size: int | None = None) -> None:
        is_count = isinstance(group_size, int) and not isinstance(group_size, bool) and group_size > 0
        if group_size is not None and not is_count:
            raise ValueError(
                f"{named('group_size')} is {group_size!r}; give how many numbers share a scale, such as 32, or null for all of "
                "a token"
            )
        self.group_size = group_size

    @property
    def _num_levels(self) -> int:
        return 2 ** (self.num_bits - 1) - 1

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values``, the levels packed into bytes, and ``scales`` (..., G)."""
        grouped = self._grouped(tensor.float())
        scales = scales_of(grouped, self._num_levels)
        levels = (grouped / scales.float()).round().clamp(-self._num_levels, self._num_levels) + self._num_levels
        whole = levels.flatten(-2)[..., : tensor.shape[-1]]
        return {"values": pack(whole, self.num_bits), "scales": scales.squeeze(-1)}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the levels' values."""
        width = context.shape[-1]
        levels = unpack(columns["values"], self.num_bits, width) - self._num_levels
        values = self._grouped(levels.float()) * columns["scales"].float().unsqueeze(-1)
        return values.flatten(-2)[..., :width].to(dtype)

    def _grouped(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers of shape (..., D) as (..., G, group size); zeros fill the last group."""
        width = numbers.shape[-1]
        size = min(self.group_size or width, width)
        return torch.nn.functional.pad(numbers, (0, -width % size)).unflatten(-1, (-1, size))
