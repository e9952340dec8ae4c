"""Two bytes for each number."""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns


class BFloat16(Codec):
    """Rounds each number to bfloat16, which has float32's range and 8 bits of precision."""

    name = "bf16"

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the numbers in bfloat16."""
        return {"values": tensor.bfloat16()}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the numbers in the dtype that they had."""
        return columns["values"].to(dtype)

    def next_width(self, width: int) -> int | None:
        """Return ``width``: any codec may follow."""
        return width
