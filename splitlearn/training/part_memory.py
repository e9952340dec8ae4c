"""The parameters and bytes that each part holds, and what training adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from splitlearn.cut import Placement
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
    return [
        PartMemory(
            name=part.spec.name,
            layers=part.spec.describe(),
            device=str(part.device),
            dtype=str(part.dtype).removeprefix("torch."),
            num_parameters=sum(count_values(parameter) for parameter in own),
            num_trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
            weight_bytes=sum(stored_bytes(parameter) for parameter in own),
        )
        for part, own in _own_parameters(parts)
    ]


def training_bytes(parts: Sequence[SplitModel], optimizer: torch.optim.Optimizer) -> dict[str, dict[str, int]]:
    """Return for each part the bytes of its parameters, of their gradients, and of their optimizer state, as they are now.

    Args:
        parts: the parts; a tensor that two of them share counts for the lower one.
        optimizer: the optimizer that steps them.

    Returns:
        By the part's name ``parameter_bytes``, ``gradient_bytes`` and ``optimizer_bytes``.
    """
    measured = {}
    for part, own in _own_parameters(parts):
        # Asking the state for a parameter that it lacks would add an entry.
        states = [optimizer.state[parameter] for parameter in own if parameter in optimizer.state]
        measured[part.spec.name] = {
            "parameter_bytes": sum(stored_bytes(parameter) for parameter in own),
            "gradient_bytes": sum(parameter.grad.nbytes for parameter in own if parameter.grad is not None),
            "optimizer_bytes": sum(
                value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor)
            ),
        }
    return measured


def bytes_by_party(parts: Mapping[str, Mapping[str, int]], placement: Placement) -> dict[str, int]:
    """Return the sum of all figures of a party's parts, for each party with a part.

    Args:
        parts: figures by the part's name, then by their own.
        placement: who holds which part.
    """
    totals: dict[str, int] = {}
    for part, figures in parts.items():
        holder = placement.holder(part)
        totals[holder] = totals.get(holder, 0) + sum(figures.values())
    return totals


def _own_parameters(parts: Sequence[SplitModel]) -> Iterator[tuple[SplitModel, list[torch.nn.Parameter]]]:
    seen: set[torch.nn.Parameter] = set()
    for part in parts:
        own = [parameter for parameter in part.parameters() if parameter not in seen]
        seen.update(own)
        yield part, own
