"""One byte for each number.

Shapes: D numbers of one token, in the last dimension.
"""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.boundary.codecs.few_bits import scales_of

_NUM_LEVELS = 127


class Int8(Codec):
    """Rounds each number to one of 255 levels between minus and plus the largest of its token."""

    name = "int8"

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values`` (..., D) in int8, and ``scales`` (..., 1) in bfloat16."""
        # One scale for each token, since hidden states of tokens differ by orders of magnitude.
        scales = scales_of(tensor, _NUM_LEVELS)
        levels = (tensor.float() / scales.float()).round().clamp(-_NUM_LEVELS, _NUM_LEVELS)
        return {"values": levels.to(torch.int8), "scales": scales}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the levels' values."""
        return (columns["values"].float() * columns["scales"].float()).to(dtype)
