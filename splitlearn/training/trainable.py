"""What of a part is trained: everything, nothing, adapters, or small tensors."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from splitlearn.model import SplitModel

# What a part's optimizer.parts.NAME.train may say besides true (adapters, or everything where no part has any) and false.
TRAINABLE = ("full", "frozen", "adapters", "biases", "norms", "biases_and_norms")


def settle(train: bool | str, has_adapters: bool, is_peft: bool) -> str:
    """Return which of `TRAINABLE` a part's setting means.

    Args:
        train: the setting.
        has_adapters: whether the part has adapters.
        is_peft: whether any part has: then the weights themselves stay frozen unless the setting says otherwise.
    """
    if isinstance(train, str):
        return train
    if not train or (is_peft and not has_adapters):
        return "frozen"
    return "adapters" if has_adapters else "full"


def mark_trainable(part: SplitModel, what: str, adapters: Collection[nn.Parameter] = ()) -> None:
    """Have just the wanted parameters of a part require gradients; its adapters do unless it is frozen.

    Args:
        part: the part.
        what: one of `TRAINABLE`.
        adapters: the parameters of its adapters.

    Raises:
        ValueError: the part has nothing of the kind, or weights are to be trained beside adapters that do not hold them.
    """
    name = part.spec.name
    if adapters and what not in ("adapters", "frozen"):
        raise ValueError(
            f"optimizer.parts.{name}.train is {what}, but {name} has adapters, and would be saved as them alone: set "
            f"peft.parts.{name}=false, or let PEFT do it with +peft.settings.bias or +peft.settings.modules_to_save"
        )
    chosen = set(part.parameters()) if what == "full" else set() if what == "frozen" else set(adapters)
    if "biases" in what:
        chosen |= {each for path, each in part.named_parameters() if path.endswith("bias")}
    if "norms" in what:
        chosen |= {each for module in part.modules() if _is_norm(module) for each in module.parameters(recurse=False)}
    for parameter in part.parameters():
        parameter.requires_grad_(parameter in chosen)
    if what not in ("full", "frozen") and not chosen:
        raise ValueError(
            f"optimizer.parts.{name}.train is {what}, but {name} has none; use full or frozen, or choose peft=lora"
        )


def _is_norm(module: nn.Module) -> bool:
    # transformers' models bring norms of their own, all of which say so in their names.
    return "norm" in type(module).__name__.lower()
