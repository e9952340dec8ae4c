"""Parameters that are stored in few bits: how they are told, counted and trained beside."""

from __future__ import annotations

from typing import Any

import torch


def keep_trainable(model: torch.nn.Module) -> None:
    """Let adapters beside quantized weights be trained after an evaluation too.

    bitsandbytes rewrites weights for inference when they are first evaluated on a CPU that multiplies bfloat16, and then no
    longer trains beside them.
    """
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def raw_tensors(parameter: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that a parameter is stored as: itself, or the values and scales of a quantized one."""
    if hasattr(parameter, "__tensor_flatten__"):
        names, _ = parameter.__tensor_flatten__()
        return [getattr(parameter, name) for name in names]
    state = getattr(parameter, "quant_state", None)
    held = [parameter.data]
    while state is not None:
        held += [each for each in vars(state).values() if isinstance(each, torch.Tensor)]
        # Scales may be quantized in their turn.
        state = state.state2
    return held


def stored_bytes(parameter: torch.Tensor) -> int:
    """Return the bytes that a parameter takes; of itself a quantized one leaves out its scales, or tells what it was before."""
    return sum(each.nbytes for each in raw_tensors(parameter))


def count_values(parameter: torch.Tensor) -> int:
    """Return how many numbers a parameter stands for; a quantized one may hold several in one element."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def is_quantized(parameter: torch.Tensor) -> bool:
    """Whether a parameter is quantized."""
    return hasattr(parameter, "__tensor_flatten__") or getattr(parameter, "quant_state", None) is not None
