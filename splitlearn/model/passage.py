"""Where smashed data enter and leave a part, and stand-ins for the modules that the part does not own.

A transformers base model given ``inputs_embeds`` may still scale them, add positions to them or drop some of them before its
first layer, and may normalise the output of its last. In the unsplit model the first happens on the bottom and the second on
the top, so a trunk hands the smashed data to its first layer exactly as they came, and passes on its last layer's output
unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in plain.items() if name not in ("training", "forward")}


class Neutral(nn.Module):
    """Stands for a module that another part owns: passes activations through, and adds nothing where a sum is taken.

    Args:
        module: the module it replaces; its plain attributes are kept, because the model may read them. None keeps none.
    """

    # transformers reads these to initialise modules of some classes.
    weight = torch.empty(0)
    bias = None

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        if module is not None:
            self.__dict__.update(_plain_attributes(module))

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the activations (B, T, D) among the arguments unchanged, or a zero without dimensions if there are none."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.ndim >= 3:
                return tensor
        return torch.zeros((), device=tensors[0].device if tensors else None)


class _ThresholdReachedError(Exception):
    """Ends the call of a bottom without layers where its first layer would begin."""


class Threshold(nn.Module):
    """Stands for the first layer in a bottom that has none: its input is the bottom's output.

    Args:
        layer: the layer it replaces; its plain attributes are kept, because the model may read them.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(_plain_attributes(layer))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states, shape (B, T, D)."""
        return args[0] if args else kwargs["hidden_states"]


@dataclass
class PassageResult:
    """The result of running a part.

    Attributes:
        output: the output of the part's model; None if it was stopped where its first layer would begin.
        hidden_BTD: the hidden states that the last carrying module returned, shape (B, T, D); None if none ran.
        first_BTD: those that the first carrying module returned, shape (B, T, D).
    """

    output: Any = None
    hidden_BTD: torch.Tensor | None = None
    first_BTD: torch.Tensor | None = None


class Passage:
    """Hands smashed data to the first carrying module that runs in a call, and keeps the output of the last one."""

    def __init__(self) -> None:
        self._pending: torch.Tensor | None = None
        self._result = PassageResult()
        self._router_logits_below: tuple[Any, ...] = ()

    def allow_layerdrop(self, module: nn.Module) -> None:
        """Let data bypass all layers in training, where a module may leave out layers at random (LayerDrop).

        Args:
            module: a module on the way to the layers that has a ``layerdrop``; its class is replaced by a subclass.
        """
        cls: Any = type(module)
        module.__class__ = _skippable_class(cls)
        module._passage = self  # type: ignore[assignment]

    def carry_through(self, module: nn.Module) -> None:
        """Let smashed data enter and leave at a module.

        Args:
            module: a layer, or a module that runs after the layers; its class is replaced by a subclass.
        """
        cls: Any = type(module)
        module.__class__ = _carrying_class(cls)
        module._passage = self  # type: ignore[assignment]

    def prepend_router_logits(self, base: nn.Module) -> None:
        """Put the router logits of the parts below before those in the base model's output, where the head finds them.

        Args:
            base: the part's base model; its class is replaced by a subclass.
        """
        cls: Any = type(base)
        base.__class__ = _joining_class(cls)
        base._passage = self  # type: ignore[assignment]

    def run(
        self, call: Callable[[], Any], hidden_BTD: torch.Tensor | None, router_logits_below: tuple[Any, ...] = ()
    ) -> PassageResult:
        """Run a part.

        Args:
            call: runs the part's model.
            hidden_BTD: smashed data for the first carrying module, shape (B, T, D); None leaves its arguments alone.
            router_logits_below: one tensor for each layer of the parts below.

        Returns:
            The model's output and the hidden states of its first and last carrying modules.

        Raises:
            RuntimeError: no carrying module ran, so the part's output did not come from the smashed data.
        """
        result = self._result = PassageResult()
        self._pending, self._router_logits_below = hidden_BTD, router_logits_below
        try:
            result.output = call()
            if self._pending is not None:
                raise RuntimeError("the smashed data did not reach this part's layers; its output would be wrong")
        except _ThresholdReachedError:
            pass
        finally:
            # Drop all references: the next call must not see them, and they would keep activations in memory.
            self._pending, self._result, self._router_logits_below = None, PassageResult(), ()
        return result

    @property
    def is_pending(self) -> bool:
        """Whether smashed data still wait for the first carrying module."""
        return self._pending is not None

    def replace_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the waiting smashed data in place of a module's hidden states.

        Args:
            args: positional arguments of the call, hidden states first if there are any.
            kwargs: its keyword arguments.

        Returns:
            The arguments to call the module with.
        """
        hidden_BTD, self._pending = self._pending, None
        if args:
            return (hidden_BTD, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden_BTD}

    def keep_output(self, module: nn.Module, output: Any) -> None:
        """Keep the hidden states that a module returned.

        Args:
            module: a carrying module.
            output: its output: hidden states (B, T, D), alone or first in a tuple with caches and attentions.
        """
        hidden_BTD = output if isinstance(output, torch.Tensor) else output[0]
        result = self._result
        result.hidden_BTD = hidden_BTD
        if result.first_BTD is None:
            result.first_BTD = hidden_BTD
        if isinstance(module, Threshold):
            raise _ThresholdReachedError

    def put_pending_out(self, output: Any) -> Any:
        """Return an output with the smashed data as its hidden states if they still wait, because all layers were left out.

        Args:
            output: the output of a module that leaves out layers.
        """
        if not self.is_pending:
            return output
        hidden_BTD, self._pending = self._pending, None
        self._result.hidden_BTD = hidden_BTD
        if isinstance(output, ModelOutput):
            output[next(iter(output))] = hidden_BTD
            return output
        return (hidden_BTD, *output[1:])

    def join_router_logits(self, output: Any) -> None:
        """Put the router logits of the parts below before those that this part's base model returned.

        Args:
            output: the base model's output; it is changed in place.
        """
        own = output.get("router_logits") if isinstance(output, ModelOutput) else None
        if own is not None and self._router_logits_below:
            output["router_logits"] = self._router_logits_below + tuple(own)


@cache
def _joining_class(cls: Any) -> Any:
    # A subclass and not a hook: deepcopy of a part would copy a hook that still refers to the original's passage.
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = super(joining, self).__call__(*args, **kwargs)
        self._passage.join_router_logits(output)
        return output

    joining: Any = type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
    return joining


@cache
def _skippable_class(cls: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = super(skippable, self).__call__(*args, **kwargs)
        return self._passage.put_pending_out(output) if self.training and self.layerdrop > 0 else output

    skippable: Any = type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
    return skippable


@cache
def _carrying_class(cls: Any) -> Any:
    # A subclass and not a hook: gradient checkpointing re-runs a layer's hooks in the backward pass, when the smashed data
    # are gone, but saves the arguments that __call__ was given.
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        passage = self._passage
        if passage.is_pending:
            args, kwargs = passage.replace_input(args, kwargs)
        output = super(carrying, self).__call__(*args, **kwargs)
        passage.keep_output(self, output)
        return output

    carrying: Any = type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
    return carrying
