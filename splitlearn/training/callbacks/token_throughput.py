"""Tokens trained in a second, and how much of what the hardware could do that is."""

from __future__ import annotations

import time
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.fabric.utilities.throughput import Throughput, get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.silence import without_lightning_advice

# Counts that go on over interruptions: checkpoints hold them.
_COUNTS = ("busy_s", "batches", "rows", "tokens", "padding_tokens")


@runtime_checkable
class CountsFlops(Protocol):
    """A module that knows how many floating-point operations its training steps take."""

    def flops_of(self, batch: Any) -> int | None:
        """Return the operations of the last training step, which was on ``batch``; None if they are not known."""


class TokenThroughput(Callback):
    """Logs training throughput, with the meter of Lightning's ThroughputMonitor, over all devices that parts live on.

    Metrics:
        tokens_per_s: tokens of the last ``window`` training batches, padding left out, per second, validation left out.
        tflops_per_s: floating-point operations of matrix products and attention, forward and backward, in the same time.
        mfu: those, as a share of what the parts' devices could do together; only where Lightning knows that, on GPUs and TPUs.

    Operations are asked of the module, if it has a method ``flops_of`` that tells them for a batch.

    Args:
        window: batches to average over.
        counts_flops: ask for operations.
    """

    def __init__(self, *, window: int = 10, counts_flops: bool = True) -> None:
        self._window = window
        self._counts_flops = counts_flops
        self._throughput = Throughput(window_size=window)
        self._flops_per_token: float | None = None
        self._busy_s = 0.0
        self._batches = self._rows = self._tokens = self._padding_tokens = 0
        self._began_s = 0.0
        self._counting_s = 0.0
        self._first_step = self._last_step = 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken since this training began or was resumed."""
        return self._last_step - self._first_step

    @property
    def num_tokens(self) -> int:
        """Tokens trained on since the run's first start, padding left out."""
        return self._tokens

    @property
    def num_padding_tokens(self) -> int:
        """Positions of padding that were computed beside the tokens so far."""
        return self._padding_tokens

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second over the whole training so far; None before the first batch."""
        return self._tokens / self._busy_s if self._busy_s else None

    @property
    def counting_s(self) -> float:
        """Seconds that counting a step's operations took, which are none of training."""
        return self._counting_s

    @property
    def flops_per_token(self) -> float | None:
        """Operations for each token of the last batch; None if they are not known."""
        return self._flops_per_token

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted so far."""
        return {name: getattr(self, f"_{name}") for name in _COUNTS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        for name in _COUNTS:
            setattr(self, f"_{name}", state_dict[name])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where a resumed training goes on, and what the devices can do."""
        self._first_step = self._last_step = trainer.global_step
        self._throughput = Throughput(_available_flops(trainer, pl_module), window_size=self._window)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Have the module count a step's operations, once and beside the training time; then start the clock."""
        if self._counts_flops and not self._batches and isinstance(pl_module, CountsFlops):
            began_s = time.perf_counter()
            pl_module.flops_of(batch)
            self._counting_s = time.perf_counter() - began_s
        self._began_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Stop the clock and log the rolling averages."""
        for device in _devices(pl_module):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        self._busy_s += time.perf_counter() - self._began_s
        num_positions, num_tokens = batch["input_ids"].numel(), count_tokens(batch)
        flops = pl_module.flops_of(batch) if self._counts_flops and isinstance(pl_module, CountsFlops) else None
        self._flops_per_token = None if flops is None else flops / num_positions
        self._last_step = trainer.global_step
        self._batches += 1
        self._rows += batch["input_ids"].shape[0]
        self._tokens += num_tokens
        self._padding_tokens += num_positions - num_tokens
        self._throughput.update(time=self._busy_s, batches=self._batches, samples=self._rows, lengths=self._tokens, flops=flops)
        rates = self._throughput.compute()
        if "device/items_per_sec" in rates:
            pl_module.log("tokens_per_s", float(rates["device/items_per_sec"]), prog_bar=True, batch_size=1)
        if "device/flops_per_sec" in rates:
            pl_module.log("tflops_per_s", float(rates["device/flops_per_sec"]) / 1e12, batch_size=1)
        if "device/mfu" in rates:
            pl_module.log("mfu", float(rates["device/mfu"]), prog_bar=True, batch_size=1)


def count_tokens(batch: dict[str, torch.Tensor]) -> int:
    """Return how many of a batch's positions hold tokens and not padding.

    Args:
        batch: ``input_ids`` of shape (B, T), with ``num_tokens`` (B) where blocks were filled up, or ``attention_mask`` (B, T).
    """
    if "num_tokens" in batch:
        return int(batch["num_tokens"].sum())
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def _devices(module: LightningModule) -> set[torch.device]:
    return {parameter.device for parameter in module.parameters()}


def _available_flops(trainer: Trainer, module: LightningModule) -> float | None:
    dtype = next(module.parameters()).dtype
    if str(trainer.precision_plugin.precision).startswith("bf16"):
        dtype = torch.bfloat16
    with without_lightning_advice():
        peaks = [get_available_flops(device, dtype) for device in _devices(module)]
    return sum(flops for flops in peaks if flops) if all(peaks) else None
