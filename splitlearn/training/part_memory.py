"""The parameters and bytes that each part holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from splitlearn.model import SplitModel, count_values, stored_bytes


@dataclass(frozen=True)
class PartMemory:
    """One part's share of memory.

    Attributes:
        name: ``"bottom"``, ``"trunk"`` or ``"top"``.
        layers: what the part holds, in words.
        device: where it lives.
        dtype: the dtype of its weights.
        num_parameters: parameters, without those that a lower part shares with it.
        num_trainable: how many of them are trained.
        weight_bytes: bytes of those parameters.
    """

    name: str
    layers: str
    device: str
    dtype: str
    num_parameters: int
    num_trainable: int
    weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        return asdict(self)


def part_memory(parts: Sequence[SplitModel]) -> list[PartMemory]:
    """Count each part's parameters and bytes; a tensor that two parts share counts for the lower one."""
    seen: set[torch.nn.Parameter] = set()
    counted = []
    for part in parts:
        own = [parameter for parameter in part.parameters() if parameter not in seen]
        seen.update(own)
        counted.append(
            PartMemory(
                name=part.spec.name,
                layers=part.spec.describe(),
                device=str(part.device),
                dtype=str(part.dtype).removeprefix("torch."),
                num_parameters=sum(count_values(parameter) for parameter in own),
                num_trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
                weight_bytes=sum(stored_bytes(parameter) for parameter in own),
            )
        )
    return counted
