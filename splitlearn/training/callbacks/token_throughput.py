"""Tokens trained in a second."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import Throughput
from lightning.pytorch import Callback, LightningModule, Trainer


class TokenThroughput(Callback):
    """Logs training throughput.

    Metrics:
        tokens_per_s: tokens of the last ``window`` training batches, padding included, per second, validation left out.

    Args:
        window: batches to average over.
    """

    def __init__(self, *, window: int = 10) -> None:
        self._throughput = Throughput(window_size=window)
        self._busy_s = 0.0
        self._batches = self._rows = self._tokens = 0
        self._began_s = 0.0
        self._first_step = self._last_step = 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps taken since this training began, those before a resume left out."""
        return self._last_step - self._first_step

    @property
    def num_tokens(self) -> int:
        """Tokens trained on so far, padding included."""
        return self._tokens

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second over the whole training so far; None before the first batch."""
        return self._tokens / self._busy_s if self._busy_s else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where a resumed training goes on."""
        self._first_step = self._last_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._began_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        """Stop the clock and log the rolling average."""
        for device in {parameter.device for parameter in pl_module.parameters()}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        self._busy_s += time.perf_counter() - self._began_s
        self._last_step = trainer.global_step
        self._batches += 1
        self._rows += batch["input_ids"].shape[0]
        self._tokens += batch["input_ids"].numel()
        self._throughput.update(time=self._busy_s, batches=self._batches, samples=self._rows, lengths=self._tokens)
        rate = self._throughput.compute().get("device/items_per_sec")
        if rate is not None:
            pl_module.log("tokens_per_s", float(rate), prog_bar=True, batch_size=1)
