"""Figures of training: the steps of a run, the learning rates of one, whether it is logged, and the perplexity of a loss."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import Trainer


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the rates of the coming step by the names they are logged under: one, or one for each part if they differ."""
    rates = {
        str(group.get("name", index)).split("/")[0]: float(group["lr"]) for index, group in enumerate(optimizer.param_groups)
    }
    if len(set(rates.values())) == 1:
        return {"learning_rate": next(iter(rates.values()))}
    return {f"learning_rate/{name}": rate for name, rate in rates.items()}


def is_logged(trainer: Trainer) -> bool:
    """Return whether Lightning's loggers get the figures of the step that is under way."""
    # The trainer's logger connector sets it; the class does not declare it.
    every: int = getattr(trainer, "log_every_n_steps", 0)
    return every > 0 and (trainer.global_step + 1) % every == 0


def num_steps_of(trainer: Trainer) -> int:
    """Return of how many optimizer steps a run is made."""
    # Asking Lightning has the data loader begin; a stream would then not begin where a checkpoint says.
    is_streamed = getattr(getattr(trainer, "datamodule", None), "streaming", False)
    return trainer.max_steps if is_streamed else int(trainer.estimated_stepping_batches)


def perplexity(loss: torch.Tensor) -> float:
    """Return the perplexity of a loss in nats for each token, a scalar; infinity if no float can hold it."""
    # exp overflows a float beyond 709 nats; such a loss is a broken run.
    return math.exp(loss.item()) if loss.item() < 700 else math.inf
