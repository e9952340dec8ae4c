"""Clipping the gradients of a step by their norm over all parts, here and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return the parameters that an optimizer steps, in the order of its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def total_norm(optimizer: torch.optim.Optimizer, elsewhere: Mapping[str, Sequence[torch.Tensor]] | None = None) -> torch.Tensor:
    """Return the norm of the gradients of all parameters, as ``torch.nn.utils.clip_grad_norm_`` computes it, to the bit.

    Args:
        optimizer: it steps the parameters that are here. The groups of parts elsewhere stand in it without parameters.
        elsewhere: the norm of each gradient that is elsewhere, as scalars, by the name of its parameter group.

    Returns:
        A scalar; 0 if there are no gradients.
    """
    gradients: list[torch.Tensor] = []
    elsewhere = elsewhere or {}
    for group in optimizer.param_groups:
        gradients += [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        # torch takes the norm of the tensors' norms, and a scalar's norm is its value. So a norm stands for its gradient.
        gradients += elsewhere.get(str(group.get("name")), ())
    return torch.nn.utils.get_total_norm(gradients)


def clip_coefficient(norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """Return what ``torch.nn.utils.clip_grads_with_norm_`` multiplies gradients of that total norm by, a scalar."""
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)
