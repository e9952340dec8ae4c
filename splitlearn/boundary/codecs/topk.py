"""The largest numbers of each token alone.

Shapes: D numbers of one token, in the last dimension; K of them are sent.
"""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs.codec import Codec, CodecContext, Columns
from splitlearn.naming import named


class TopK(Codec):
    """Sends the numbers of a token that are largest in magnitude, with their places; the others arrive as 0.

    Args:
        share: how many of a token's numbers are sent; at least one is.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """

    name = "topk"

    def __init__(self, share: float = 0.25) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(
                f"{named('share')} is {share!r}; give the share of a token's numbers to send, above 0 and at most 1"
            )
        self.share = share

    def encode(self, tensor: torch.Tensor, context: CodecContext) -> Columns:
        """Return ``values`` (..., K) in bfloat16, and ``indices`` (..., K) in the smallest type that holds them."""
        width = tensor.shape[-1]
        indices = tensor.abs().topk(self._count(width), dim=-1, sorted=False).indices
        return {"values": tensor.gather(-1, indices).bfloat16(), "indices": indices.to(_index_dtype(width))}

    def decode(self, columns: Columns, dtype: torch.dtype, context: CodecContext) -> torch.Tensor:
        """Return the numbers at their places, and zeros at all others."""
        values = columns["values"]
        whole = torch.zeros(*values.shape[:-1], context.shape[-1], dtype=dtype, device=values.device)
        return whole.scatter_(-1, columns["indices"].long(), values.to(dtype))

    def next_width(self, width: int) -> int | None:
        """Return how many numbers of a token are sent: a codec that follows encodes these."""
        return self._count(width)

    def _count(self, width: int) -> int:
        return max(1, round(self.share * width))


def _index_dtype(width: int) -> torch.dtype:
    fitting = [dtype for dtype in (torch.uint8, torch.int16, torch.int32) if width - 1 <= torch.iinfo(dtype).max]
    return fitting[0] if fitting else torch.int64
