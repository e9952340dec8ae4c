"""Figures of training: the learning rate and the norm of the gradients of a step, and the perplexity of a loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the rates of the coming step by the names they are logged under: one, or one for each part if they differ."""
    rates = {
        str(group.get("name", index)).split("/")[0]: float(group["lr"]) for index, group in enumerate(optimizer.param_groups)
    }
    if len(set(rates.values())) == 1:
        return {"learning_rate": next(iter(rates.values()))}
    return {f"learning_rate/{name}": rate for name, rate in rates.items()}


def clip_gradients(
    module: LightningModule, optimizer: torch.optim.Optimizer, clip_val: float | None, algorithm: Any
) -> torch.Tensor | None:
    """Clip gradients as Lightning does, to the bit, and return their norm before that; clipping by norm measures it anyway.

    Args:
        module: what is trained.
        optimizer: what steps.
        clip_val: the largest norm, or the largest value; None does not clip.
        algorithm: ``"norm"``, ``"value"`` or None for Lightning's default, the norm.

    Returns:
        The norm over all parameters of the optimizer, as a scalar. None where it would have to be measured for a step that is
        not logged.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if clip_val and algorithm in (None, "norm"):
        return torch.nn.utils.clip_grad_norm_(parameters, clip_val)
    every = getattr(module.trainer, "log_every_n_steps", 0)
    is_logged = every and (module.trainer.global_step + 1) % every == 0
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if is_logged and gradients else None
    module.clip_gradients(optimizer, gradient_clip_val=clip_val, gradient_clip_algorithm=algorithm)
    return norm


def perplexity(loss: torch.Tensor) -> float:
    """Return the perplexity of a loss in nats for each token, a scalar; infinity if no float can hold it."""
    # exp overflows a float beyond 709 nats; such a loss is a broken run.
    return math.exp(loss.item()) if loss.item() < 700 else math.inf
