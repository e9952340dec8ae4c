"""How decoder layers run: compiled by ``torch.compile``, or anew in the backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitlearn.model import SplitModel
from splitlearn.naming import named
from splitlearn.silence import silent_transformers


def compile_settings(compile_layers: bool | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what ``torch.compile`` is to be given; None if nothing is to be compiled.

    Args:
        compile_layers: True, False or None, or arguments of ``torch.compile``.

    Raises:
        ValueError: it is something else, or ``torch.compile`` does not know an argument, its mode or its backend.
    """
    if compile_layers is None or compile_layers is False:
        return None
    if compile_layers is not True and not isinstance(compile_layers, Mapping):
        name = named("compile_layers")
        raise ValueError(
            f"{name} is {compile_layers!r}; use true, false or arguments of torch.compile such as {{mode: default}}"
        )
    settings = {} if compile_layers is True else dict(compile_layers)
    try:
        # Compiles nothing before it is called.
        torch.compile(torch.nn.Identity(), **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{named('compile_layers')} is {settings}, which torch.compile does not take: {error}") from error
    return settings


def compile_layers(parts: Sequence[SplitModel], settings: Mapping[str, Any]) -> None:
    """Have the decoder layers of parts compiled when they first run.

    Layers of one kind share their compiled code, so the time it takes does not grow with their number, and what runs between
    the layers stays as it is.
    """
    for part in parts:
        for layer in part.layers:
            layer.compile(**settings)


def checkpoint_layers(parts: Sequence[SplitModel]) -> None:
    """Have the decoder layers of parts keep only their inputs for the backward pass, and run again in it.

    Args:
        parts: the parts that gradients reach; in others nothing is kept anyway.

    Raises:
        ValueError: the architecture does not offer it.
    """
    for part in parts:
        # Called so since transformers 5.2x.
        enable = getattr(part.model, "activation_checkpointing_enable", part.model.gradient_checkpointing_enable)
        with silent_transformers():
            enable({"use_reentrant": False})
        if not part.spec.has_embedding:
            # transformers has embeddings require gradients, which only another way to checkpoint needs.
            part.model.disable_input_require_grads()
