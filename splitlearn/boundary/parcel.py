"""The values that are handed from part to part.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# Recorded outputs by transformers' name (router_logits, hidden_states, attentions), with one entry for each layer of a part.
LayerOutputs = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Parcel:
    """The input of the next part, and nothing else.

    Attributes:
        hidden_BTD: smashed data, shape (B, T, D); a few architectures have more dimensions.
        attention_mask: 1 for real tokens and 0 for padding, shape (B, T) with cached tokens first; or another form of mask
            that the transformers model takes.
        position_ids: positions of the tokens, shape (B, T).
        others: further tensors that the caller gave to every part, by argument name.
    """

    hidden_BTD: torch.Tensor
    attention_mask: Any = None
    position_ids: torch.Tensor | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> dict[str, Any]:
        """The tensors beside the smashed data: mask, positions and others, by argument name; absent ones are left out."""
        own = {"attention_mask": self.attention_mask, "position_ids": self.position_ids}
        return {name: value for name, value in own.items() if value is not None} | dict(self.others)


@dataclass(frozen=True, eq=False)
class Handover:
    """The state of a run that stopped before the cut above its last part, from which another run goes on.

    Attributes:
        parcel: the input of the next part. It has not crossed the cut yet.
        layer_outputs: recorded outputs of each part below, by the part's name; they go to the holder of the top.
        loss_term: scalar that the boundaries' observers add to the loss so far; None for nothing.
        origin: of a parcel that has crossed a cut, the scalar at which the graph of its sender ends.
    """

    parcel: Parcel
    layer_outputs: Mapping[str, LayerOutputs] = field(default_factory=dict)
    loss_term: torch.Tensor | None = None
    origin: torch.Tensor | None = None


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a value.

    Args:
        value: a tensor, or mappings and sequences that contain tensors; anything else has none.
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from tensors_of(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_of(member)


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors, also those in a dictionary or sequence, on a device.

    Args:
        value: any value; one without tensors is returned as it is.
        device: where the tensors go.
    """
    if isinstance(value, torch.Tensor):
        # Asynchronous only towards a GPU: a copy from a GPU to the CPU may otherwise be read before it has arrived.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {name: to_device(member, device) for name, member in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_device(member, device) for member in value)
    return value
