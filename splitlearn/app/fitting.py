"""Training, and the figures that come of it."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from splitlearn.app.checkpoints import find_best, read_checkpoint
from splitlearn.app.held_out import measure_after
from splitlearn.memory import GIB
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import RunFigures, TokenThroughput, find_callback

_HELD_OUT = ("val_loss", "val_perplexity")


def fit(
    trainer: Trainer,
    module: SplitCausalLM,
    datamodule: LightningDataModule,
    figures: RunFigures,
    ckpt_path: str | None,
    loads_best: bool,
) -> dict[str, Any]:
    """Train, evaluate, and return the figures of the run.

    Args:
        trainer: the run's trainer.
        module: the module; afterwards it holds what the run ended with, or the best it had.
        datamodule: the data, set up.
        figures: the callback that has kept the base model's figures.
        ckpt_path: the checkpoint that the run goes on from; None for none.
        loads_best: whether the module is to hold the best of the run in the end.

    Returns:
        Figures as in ``summary.json``: held-out loss and perplexity before and after, seconds, tokens, GiB.
    """
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    figures.stop()
    after = measure_after(trainer, module, datamodule)
    best = find_best(trainer) if loads_best else None
    if best is not None and best["step"] != trainer.global_step:
        module.load_trained(read_checkpoint(best["file"]))
        after = {"val_loss": best["val_loss"], "val_perplexity": math.exp(best["val_loss"])}
    before = figures.before or {}
    held_out = {f"{name}_before": before.get(name) for name in _HELD_OUT}
    held_out |= {f"{name}_after": after.get(name) for name in _HELD_OUT}
    return held_out | _costs(trainer, module, figures)


def step_of_end(trainer: Trainer, loads_best: bool) -> int:
    """Return the optimizer step of what the module holds after `fit`."""
    best = find_best(trainer) if loads_best else None
    return trainer.global_step if best is None else int(best["step"])


def _costs(trainer: Trainer, module: SplitCausalLM, figures: RunFigures) -> dict[str, Any]:
    """Return what the training took: seconds, steps, tokens, and memory at its peaks."""
    throughput = find_callback(trainer, TokenThroughput)
    tracker = module.tracker
    return {
        "train_s": figures.train_s - (throughput.counting_s if throughput else 0.0),
        "train_steps": trainer.global_step,
        "train_tokens": throughput.num_tokens if throughput else 0,
        "train_padding_tokens": throughput.num_padding_tokens if throughput else 0,
        "tokens_per_s": throughput.tokens_per_s if throughput else None,
        "peak_rss_gib": tracker.peak_rss_bytes / GIB,
        "peak_anonymous_gib": tracker.peak_anonymous_bytes / GIB,
        "peak_gpu_gib": tracker.peak_gpu_bytes / GIB,
    }
