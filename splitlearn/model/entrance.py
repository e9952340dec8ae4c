"""Where smashed data enters a part, and the neutral modules that stand for what the part does not own.

A transformers base model given ``inputs_embeds`` may still scale them, add positions to them or drop some of them before its
first layer. The unsplit model did all that on the bottom, so a trunk or top must hand the smashed data to its first layer
exactly as they came.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn


class Neutral(nn.Module):
    """Stands for a module that another part owns: passes activations through, and adds nothing where a sum is taken."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the activations (B, T, D) among the arguments unchanged, or a zero without dimensions if there are none."""
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        for each in tensors:
            if each.is_floating_point() and each.ndim >= 3:
                return each
        return torch.zeros((), device=tensors[0].device if tensors else None)


class Entrance:
    """Hands smashed data, once per call of a part, to whichever of the attached modules runs first."""

    def __init__(self) -> None:
        self._pending: torch.Tensor | None = None

    def attach(self, module: nn.Module) -> None:
        """Let ``module`` receive the smashed data when it is the first attached module to run."""
        cls: Any = type(module)
        module.__class__ = _receiving_class(cls)
        module._entrance = self  # type: ignore[assignment]

    def open(self, hidden_BTD: torch.Tensor) -> None:
        """Hold smashed data of shape (B, T, D) ready for the next call."""
        self._pending = hidden_BTD

    def close(self) -> None:
        """End a call.

        Raises:
            RuntimeError: no attached module ran, so the part's output did not come from the smashed data.
        """
        if self._pending is not None:
            self._pending = None
            raise RuntimeError("the smashed data did not reach this part's layers; its output would be wrong")

    def abandon(self) -> None:
        """Forget smashed data that an interrupted call left behind."""
        self._pending = None

    def substitute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put waiting smashed data in place of a module's first argument; leave the arguments alone if none wait."""
        if self._pending is None:
            return args, kwargs
        hidden_BTD, self._pending = self._pending, None
        if args:
            return (hidden_BTD, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden_BTD}


@cache
def _receiving_class(cls: Any) -> Any:
    # A subclass and not a hook: gradient checkpointing re-runs a layer's hooks in the backward pass, when the smashed data
    # are gone, but saves the arguments that __call__ was given.
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._entrance.substitute(args, kwargs)
        return super(receiving, self).__call__(*args, **kwargs)

    receiving: Any = type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
    return receiving
