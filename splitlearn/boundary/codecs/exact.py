"""Nothing is encoded."""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns


class Exact(Codec):
    """Sends a tensor as it is."""

    name = "exact"
    is_exact = True

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return the tensor itself."""
        return {"values": tensor}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the tensor itself."""
        return columns["values"]

    def next_width(self, width: int) -> int | None:
        """Return ``width``: any codec may follow."""
        return width
