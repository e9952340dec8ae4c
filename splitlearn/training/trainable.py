"""Marking which tensors of a part are trained: everything, nothing, adapters, or small tensors."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from splitlearn.cut import PartTraining
from splitlearn.model import SplitModel


def mark_trainable(part: SplitModel, trained: PartTraining, adapters: Collection[nn.Parameter] = ()) -> None:
    """Have just the wanted parameters of a part require gradients; its adapters do unless it is frozen.

    Args:
        part: the part.
        trained: which tensors are wanted.
        adapters: the parameters of its adapters.

    Raises:
        ValueError: the part has nothing of the kind, or weights are to be trained beside adapters that do not hold them.
    """
    name = part.spec.name
    if adapters and trained.trains_weights:
        raise ValueError(
            f"optimizer.parts.{name}.train is {trained}, but {name} has adapters, and would be saved as them alone: set "
            f"peft.parts.{name}=false, or let PEFT do it with +peft.settings.bias or +peft.settings.modules_to_save"
        )
    chosen = set(part.parameters()) if trained.trains_all_weights else set(adapters) if trained.trains_anything else set()
    if trained.trains_biases:
        chosen |= {parameter for path, parameter in part.named_parameters() if path.endswith("bias")}
    if trained.trains_norms:
        norms = filter(_is_norm, part.modules())
        chosen |= {parameter for norm in norms for parameter in norm.parameters(recurse=False)}
    for parameter in part.parameters():
        parameter.requires_grad_(parameter in chosen)
    if trained not in (PartTraining.FULL, PartTraining.FROZEN) and not chosen:
        raise ValueError(
            f"optimizer.parts.{name}.train is {trained}, but {name} has none; use full or frozen, or choose peft=lora"
        )


def _is_norm(module: nn.Module) -> bool:
    # transformers' models bring norms of their own, all of which say so in their names.
    return "norm" in type(module).__name__.lower()
