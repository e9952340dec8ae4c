"""A warning where two optimizers step one tied parameter by the same gradient."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

# For each tied parameter the gradient that was last applied: the tensor, its version, and the optimizer.
_applied: WeakIdKeyDictionary = WeakIdKeyDictionary()
_is_watching = False


def watch_steps(parameter: torch.nn.Parameter) -> None:
    """Warn if two optimizers step a parameter by the same gradient.

    Args:
        parameter: a parameter that two parts share, such as the embedding that is also the head; it is held weakly.
    """
    global _is_watching
    _applied.setdefault(parameter, None)
    if not _is_watching:
        register_optimizer_step_post_hook(_note_step)
        _is_watching = True


def _note_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not len(_applied):
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for parameter, before in list(_applied.items()):
        if id(parameter) not in stepped or parameter.grad is None:
            continue
        # A new backward pass makes a new gradient tensor, or writes into the old one, which raises its version.
        gradient = (parameter.grad, parameter.grad._version)
        if before is not None and before[0]() is gradient[0] and before[1] == gradient[1] and before[2]() is not optimizer:
            warnings.warn(
                "two optimizers stepped one parameter that bottom and top share, the head that is tied to the embedding, so it "
                "moved twice; use one optimizer over splitlearn.training.unique_parameters(parts)",
                stacklevel=3,
            )
        _applied[parameter] = (weakref.ref(gradient[0]), gradient[1], weakref.ref(optimizer))
