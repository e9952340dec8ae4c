"""Settings that can be seen to be wrong before anything is done."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedConfig

# What a run logs, which callbacks may watch.
METRICS = (
    "train_loss",
    "train_loss_step",
    "train_loss_epoch",
    "train_perplexity",
    "val_loss",
    "val_perplexity",
    "tokens_per_s",
    "tflops_per_s",
)
_SWITCHES = (
    "gradient_checkpointing",
    "save_parts",
    "verbose",
    "model.low_memory",
    "data.streaming",
    "data.completion_only",
    "callbacks.throughput.counts_flops",
    "callbacks.memory_report.print_table",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.deterministic",
)
_COUNTS = {
    "seed": 0,
    "trainer.max_epochs": -1,
    "trainer.max_steps": -1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.num_sanity_val_steps": -1,
    "data.num_workers": 0,
    "data.seed": 0,
    "callbacks.throughput.window": 2,
    "callbacks.early_stopping.patience": 0,
    "callbacks.learning_rate_finder.num_training_steps": 20,
    "callbacks.batch_size_finder.init_val": 1,
    "callbacks.batch_size_finder.max_val": 1,
    "callbacks.batch_size_finder.steps_per_trial": 1,
}
_AMOUNTS = ("max_logits_mib", "trainer.gradient_clip_val")


def check_switches(cfg: DictConfig, names: tuple[str, ...]) -> None:
    """Refuse what is neither true nor false: any other word would count as true.

    Raises:
        ValueError: one is.
    """
    for name in names:
        value = OmegaConf.select(cfg, name, default=None)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{name} is {value}; give true or false")


def check_count(cfg: DictConfig, name: str, least: int) -> None:
    """Refuse what is no whole number of at least ``least``; None and what is not there pass.

    Raises:
        ValueError: it is not.
    """
    value = OmegaConf.select(cfg, name, default=None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}")


def check_settings(cfg: DictConfig, config: PreTrainedConfig) -> None:
    """Refuse settings of a run that cannot be meant.

    Args:
        cfg: a configuration like ``conf/train.yaml``.
        config: the model's.

    Raises:
        ValueError: one cannot.
    """
    check_switches(cfg, _SWITCHES)
    for name, least in _COUNTS.items():
        check_count(cfg, name, least)
    for name in _AMOUNTS:
        value: Any = OmegaConf.select(cfg, name, default=None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
            raise ValueError(f"{name} is {value!r}; give a positive number, or null")
    _check_finders(cfg)
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
    are_numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (low, high))
    return are_numbers and 0 < low < high < math.inf
