"""Parameters that are stored in few bits: recognising and measuring them, and training adapters beside them."""

from __future__ import annotations

from typing import Any

import torch


def keep_trainable(model: torch.nn.Module) -> None:
    """Let adapters beside quantized weights be trained after an evaluation too.

    On a CPU that multiplies bfloat16, bitsandbytes repacks weights for inference when they are first evaluated, and cannot
    train beside them afterwards.

    Args:
        model: the model; it is changed in place.
    """
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def raw_tensors(parameter: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that hold a parameter: itself, or the values and scales of a quantized one.

    Args:
        parameter: a plain or quantized parameter.
    """
    if hasattr(parameter, "__tensor_flatten__"):
        names, _ = parameter.__tensor_flatten__()
        return [getattr(parameter, name) for name in names]
    state = getattr(parameter, "quant_state", None)
    raw = [parameter.data]
    while state is not None:
        raw += [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
        # Double quantization: the scales have a quantization state of their own.
        state = state.state2
    return raw


def stored_bytes(parameter: torch.Tensor) -> int:
    """Return the bytes that a parameter takes, scales included.

    ``nbytes`` of a quantized parameter leaves out its scales, or gives the size before it was quantized.

    Args:
        parameter: a plain or quantized parameter.
    """
    return sum(raw.nbytes for raw in raw_tensors(parameter))


def count_values(parameter: torch.Tensor) -> int:
    """Return how many numbers a parameter stands for; a quantized one may hold several in one element.

    Args:
        parameter: a plain or quantized parameter.
    """
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def is_quantized(parameter: torch.Tensor) -> bool:
    """Whether a parameter is quantized.

    Args:
        parameter: a parameter of torchao, bitsandbytes or torch.
    """
    return hasattr(parameter, "__tensor_flatten__") or getattr(parameter, "quant_state", None) is not None
