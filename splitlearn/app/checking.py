"""Settings that cannot be meant together, or with a model; what each may be by itself is in `splitlearn.settings`."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedConfig

# Metrics that a run logs, so callbacks may watch them.
METRICS = (
    "train_loss",
    "train_loss_step",
    "train_loss_epoch",
    "train_perplexity",
    "val_loss",
    "val_perplexity",
    "learning_rate",
    "gradient_norm",
    "tokens_per_s",
    "tflops_per_s",
)


def check_settings(cfg: DictConfig, config: PreTrainedConfig) -> None:
    """Refuse settings of a run that cannot be meant.

    Args:
        cfg: a configuration like ``conf/train.yaml``.
        config: the model's.

    Raises:
        ValueError: one cannot.
    """
    _check_finders(cfg)
    best = (cfg.get("callbacks") or {}).get("checkpoint")
    if cfg.load_best_model_at_end and (
        best is None or best.get("save_top_k", cfg.save_top_k) == 0 or best.get("monitor") != "val_loss"
    ):
        raise ValueError(
            "load_best_model_at_end is true, but no best checkpoint by held-out loss is kept; leave save_top_k=1 and "
            "callbacks.checkpoint as they are"
        )
    if cfg.trainer.get("val_check_interval") == 0:
        raise ValueError("trainer.val_check_interval is 0; give batches between two validations, or a share of an epoch")
    if cfg.trainer.get("limit_val_batches") == 0:
        raise ValueError(
            "trainer.limit_val_batches is 0, but a run is judged by its held-out loss; leave it at least one batch"
        )
    for name, callback in (cfg.get("callbacks") or {}).items():
        monitor = callback.get("monitor") if OmegaConf.is_dict(callback) else None
        if monitor is not None and monitor not in METRICS:
            raise ValueError(f"callbacks.{name}.monitor is {monitor!r}; a run logs {', '.join(METRICS)}")
    check_positions(config, cfg.data.get("block_size"), "data.block_size")
    if cfg.data.get("streaming") and cfg.trainer.max_steps < 0 and not cfg.trainer.fast_dev_run:
        raise ValueError("nobody knows how long data are that are streamed; say how long to train with trainer.max_steps")


def check_positions(config: PreTrainedConfig, num_tokens: Any, name: str) -> None:
    """Refuse more tokens than a model has positions.

    Args:
        config: the model's.
        num_tokens: how many tokens a row has.
        name: what to call it in the message.

    Raises:
        ValueError: there are more.
    """
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(num_tokens, int) and positions is not None and num_tokens > positions:
        raise ValueError(f"{name} is {num_tokens}, but the model has only {positions} positions; choose at most that")


def _check_finders(cfg: DictConfig) -> None:
    callbacks = cfg.get("callbacks") or {}
    rates = callbacks.get("learning_rate_finder")
    if rates is not None and not _is_range(rates.min_lr, rates.max_lr):
        raise ValueError(
            f"callbacks.learning_rate_finder searches from min_lr={rates.min_lr} to max_lr={rates.max_lr}; give two positive "
            "numbers, the smaller first"
        )
    sizes = callbacks.get("batch_size_finder")
    if sizes is not None and sizes.max_val is not None and sizes.init_val > sizes.max_val:
        raise ValueError(
            f"callbacks.batch_size_finder begins with init_val={sizes.init_val}, more than max_val={sizes.max_val}"
        )


def _is_range(low: Any, high: Any) -> bool:
    are_numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (low, high))
    return are_numbers and 0 < low < high < math.inf
