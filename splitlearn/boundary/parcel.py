"""What is handed from part to part.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# What a part's layers returned once each, by transformers' name: router_logits, hidden_states, attentions.
LayerOutputs = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Parcel:
    """What the next part needs to go on, and nothing else.

    Attributes:
        hidden_BTD: smashed data, shape (B, T, D); a few architectures have more dimensions.
        attention_mask: 1 for real tokens and 0 for padding, shape (B, T) with cached tokens first; or what else the
            transformers model takes as its mask.
        position_ids: positions of the tokens, shape (B, T).
        others: further tensors that the caller gave to every part, by argument name.
    """

    hidden_BTD: torch.Tensor
    attention_mask: Any = None
    position_ids: torch.Tensor | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> dict[str, Any]:
        """What goes with the smashed data: mask, positions and other tensors that are there, by argument name."""
        own = {"attention_mask": self.attention_mask, "position_ids": self.position_ids}
        return {name: value for name, value in own.items() if value is not None} | dict(self.others)


@dataclass(frozen=True, eq=False)
class Handover:
    """Where a run through some of the parts stopped, or may go on: before the cut above the last part that ran.

    Attributes:
        parcel: what the next part needs. It has not crossed the cut yet.
        layer_outputs: for each part below what its layers returned, which goes to the holder of the top.
        loss_term: what the boundaries' observers add to the loss so far, a scalar; None for nothing.
    """

    parcel: Parcel
    layer_outputs: Mapping[str, LayerOutputs] = field(default_factory=dict)
    loss_term: torch.Tensor | None = None


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a value: itself, or those in a mapping or sequence."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_of(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_of(member)


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors, also those in a dictionary or sequence, on a device."""
    if isinstance(value, torch.Tensor):
        # Only towards a GPU: a copy from a GPU into ordinary memory that nobody waits for may be read before it is there.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {name: to_device(member, device) for name, member in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_device(member, device) for member in value)
    return value
