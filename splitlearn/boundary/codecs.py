"""Encodings of smashed data that are kept or cross a cut: unchanged, or with fewer bits.

Shapes: B rows, then any further dimensions, usually T tokens and D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Columns = dict[str, torch.Tensor]
_INT8_MAX = 127


@dataclass(frozen=True)
class Codec:
    """One encoding of smashed data.

    Attributes:
        encode: from smashed data (B, ...) to tensors that each have B rows.
        decode: from such tensors and the smashed data's dtype back to smashed data.
    """

    encode: Callable[[torch.Tensor], Columns]
    decode: Callable[[Columns, torch.dtype], torch.Tensor]


def _quantize(hidden: torch.Tensor) -> Columns:
    # One scale for each token, since hidden states of tokens differ by orders of magnitude. The clamp avoids a division by 0.
    scales = hidden.abs().amax(dim=-1, keepdim=True).float().clamp(min=torch.finfo(torch.float32).tiny) / _INT8_MAX
    return {"values": (hidden.float() / scales).round().to(torch.int8), "scales": scales}


def _dequantize(columns: Columns, dtype: torch.dtype) -> torch.Tensor:
    return (columns["values"].float() * columns["scales"]).to(dtype)


CODECS = {
    "none": Codec(lambda hidden: {"values": hidden}, lambda columns, dtype: columns["values"]),
    "bfloat16": Codec(lambda hidden: {"values": hidden.bfloat16()}, lambda columns, dtype: columns["values"].to(dtype)),
    "int8": Codec(_quantize, _dequantize),
}
