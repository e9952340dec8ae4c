"""Settings of a run that follow from others."""

from __future__ import annotations

from omegaconf import DictConfig

from splitlearn.app.rates import optimizer_settings
from splitlearn.app.simulating import settle_clients


def settle_settings(cfg: DictConfig) -> None:
    """Write into a run's configuration what its other settings mean: dtype, number of epochs, learning rates.

    Args:
        cfg: a configuration like ``conf/train.yaml``; it is changed.

    Raises:
        ValueError: two settings contradict each other, or the optimizer's are unknown or out of range.
    """
    cfg.model.dtype = _dtype(cfg)
    if cfg.data.get("streaming") and cfg.trainer.get("max_steps", -1) > 0:
        # The number of steps alone says how long: rows are passed as often as it takes.
        cfg.trainer.max_epochs = -1
    cfg.optimizer = optimizer_settings(cfg)
    settle_clients(cfg)


def _dtype(cfg: DictConfig) -> str | None:
    """Return what weights are loaded in: ``trainer.precision=bf16-true`` says it too."""
    if cfg.trainer.precision != "bf16-true":
        return cfg.model.dtype
    if cfg.model.dtype not in (None, "bfloat16"):
        raise ValueError(f"trainer.precision is bf16-true, but model.dtype is {cfg.model.dtype}; leave one of them out")
    return "bfloat16"
