"""Decoder layers compiled by ``torch.compile``, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitlearn.model import SplitModel


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
        raise ValueError(
            f"compile is {compile_layers!r}; use true, false or arguments of torch.compile such as {{mode: default}}"
        )
    settings = {} if compile_layers is True else dict(compile_layers)
    try:
        # Compiles nothing before it is called.
        torch.compile(torch.nn.Identity(), **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"compile is {settings}, which torch.compile does not take: {error}") from error
    return settings


def compile_layers(parts: Sequence[SplitModel], settings: Mapping[str, Any]) -> None:
    """Have the decoder layers of parts compiled when they first run.

    Layers of one kind share their compiled code, so the time it takes does not grow with their number, and what runs between
    the layers stays as it is.
    """
    for part in parts:
        for layer in part.layers:
            layer.compile(**settings)
