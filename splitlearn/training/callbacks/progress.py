"""How far a run is: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar


class BarProgress(RichProgressBar):
    """Lightning's bar on a terminal, with this project's figures alone.

    Args:
        **kwargs: as for Lightning's.
    """

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the figures to show."""
        return _named(super().get_metrics(trainer, pl_module))


def _named(figures: dict[str, Any]) -> dict[str, Any]:
    # The logger's folder, which Lightning adds, is no figure.
    return {name: value for name, value in figures.items() if name != "v_num"}


class LineProgress(ProgressBar):
    """Prints a line every so many seconds, and at the end of each epoch.

    Args:
        interval_s: seconds between two lines.
    """

    def __init__(self, interval_s: float = 30.0) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._last_s = 0.0
        self._is_enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether lines are printed."""
        return self._is_enabled

    def disable(self) -> None:
        """Print nothing; Lightning calls this on all processes but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Print lines again."""
        self._is_enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last_s = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time to."""
        if time.monotonic() - self._last_s >= self._interval_s:
            self._print(trainer, pl_module, f"batch {batch_idx + 1} of {self.total_train_batches}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's last line."""
        self._print(trainer, pl_module, "done")

    def _print(self, trainer: Trainer, pl_module: LightningModule, place: str) -> None:
        self._last_s = time.monotonic()
        if self._is_enabled:
            metrics = self.get_metrics(trainer, pl_module)
            figures = [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float)]
            print(f"epoch {trainer.current_epoch + 1}, {place}: {', '.join(figures)}", flush=True)


def make_progress(refresh_rate: int = 10, interval_s: float = 30.0) -> ProgressBar:
    """Return what shows a run's progress where its output goes: a rich bar on a terminal, otherwise lines.

    Args:
        refresh_rate: batches between two updates of the bar.
        interval_s: seconds between two lines.
    """
    return BarProgress(refresh_rate=refresh_rate) if sys.stdout.isatty() else LineProgress(interval_s)
