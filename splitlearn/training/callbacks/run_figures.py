"""Figures of a run from its first start on, however often it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class RunFigures(Callback):
    """Keeps in checkpoints what a resumed run cannot measure again.

    Attributes:
        before: the base model's held-out figures, by name; None until they are measured.
        held_out: what identifies the held-out rows that ``before`` was measured on.
        tokenizer: what identifies the tokenizer.
    """

    def __init__(self) -> None:
        self.before: dict[str, float | None] | None = None
        self.held_out: str | None = None
        self.tokenizer: str | None = None
        self._earlier_s = 0.0
        self._began_s: float | None = None

    @property
    def train_s(self) -> float:
        """Seconds of training and validation since the first start, without those between two starts."""
        return self._earlier_s + (0.0 if self._began_s is None else time.perf_counter() - self._began_s)

    def stop(self) -> None:
        """Stop the clock."""
        self._earlier_s, self._began_s = self.train_s, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock meanwhile."""
        was_running = self._began_s is not None
        self.stop()
        try:
            yield
        finally:
            if was_running:
                self._began_s = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the figures so far."""
        names = ("before", "held_out", "tokenizer", "train_s")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the figures of a checkpoint; what was measured before this is called counts instead."""
        self._earlier_s = state_dict["train_s"]
        if self.before is None:
            self.before, self.held_out = state_dict["before"], state_dict["held_out"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began_s = time.perf_counter()


def saved_figures(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `RunFigures` kept in a checkpoint; empty if it was not there."""
    figures: dict[str, Any] = checkpoint.get("callbacks", {}).get(RunFigures.__qualname__, {})
    return figures
