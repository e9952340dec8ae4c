"""Going on as if nothing had happened: random numbers in checkpoints, and a checkpoint when the run is asked to stop."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer

from splitlearn.training.callbacks.last_checkpoint import LAST

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ExactResume(Callback):
    """Keeps the state of all random number generators in checkpoints, and writes one when a signal asks the run to stop.

    A resumed run draws the random numbers that the interrupted one would have drawn. On SIGTERM or SIGINT (Ctrl-C) the step
    under way is finished, ``last.ckpt`` written, and the process ends with 128 plus the signal's number. A second signal is
    answered as if nobody had waited for the first.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._places: list[dict[str, Any]] = []
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generators as plain values and tensors."""
        return read_generators()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a state for the first batch, before which others still draw random numbers."""
        self._restored = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the generators to where the checkpoint left them."""
        if self._restored is not None:
            set_generators(self._restored)
            self._restored = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note as the data loader's place what was trained on; of data of unknown length Lightning holds a batch in advance."""
        checkpoint["data_order"] = _data_order(trainer)
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        progress, epochs = loops.get("epoch_loop.batch_progress"), loops.get("epoch_progress")
        if not progress or not epochs or not epochs["current"]["started"]:
            return
        is_over = progress["is_last_batch"]
        # An epoch that ends by the run's number of steps is not over, though Lightning counts it.
        for counts in epochs.values():
            counts["processed"] = counts["started"] - (not is_over)
        for place in loops.get("state_dict", {}).get("combined_loader", []):
            place["num_batches"] = 0 if is_over else progress["current"]["processed"]
            place["epoch"] = epochs["current"]["processed"]
        if is_over:
            _end_epoch(loops)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the data loaders' places in the epoch for the beginning of training.

        Raises:
            ValueError: there are places in an epoch of other data.
        """
        loops = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._places = loops.get("combined_loader", [])
        saved, now = checkpoint.get("data_order"), _data_order(trainer)
        if saved and now and any(place["num_batches"] for place in self._places):
            changed = [f"data.{name} is {value} and {now.get(name)}" for name, value in saved.items() if value != now.get(name)]
            if changed:
                raise ValueError(
                    "the checkpoint was written in the middle of an epoch, which can only go on with the same data: "
                    f"{'; '.join(changed)}"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the data loader to its place, and wait for signals in front of Lightning, which registers its handlers before."""
        loader = trainer.train_dataloader
        # Lightning itself does this only if nobody has asked for the number of steps before, which schedules do of data whose
        # length is known. Of others it holds the first batch already.
        if self._places and hasattr(loader, "load_state_dict") and sized_len(loader) is not None:
            loader.load_state_dict(self._places[0])
        self._places = []
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        # A second one is answered as if nobody waited for any.
        self._stop_waiting()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run, with a checkpoint, if it was asked to and this batch ended an optimizer step.

        Raises:
            SystemExit: a signal came.
        """
        epoch_loop = trainer.fit_loop.epoch_loop
        waits = epoch_loop.batch_progress.is_last_batch or trainer.fit_loop._should_accumulate()
        if self._received is not None and not waits and not epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            # What this step logged would otherwise come after the hook that ends the run.
            trainer._logger_connector.update_train_step_metrics()
            for logger in trainer.loggers:
                logger.save()
            self._end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run, with a checkpoint, if it was asked to and this validation came in the middle of an epoch.

        Raises:
            SystemExit: a signal came.
        """
        if self._received is not None and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run, with a checkpoint, if it was asked to in the epoch's last step.

        Raises:
            SystemExit: a signal came.
        """
        if self._received is not None:
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
        trainer.save_checkpoint(Path(folder) / LAST)
        raise SystemExit(128 + (self._received or 0))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give signals back to whom they belonged."""
        self._stop_waiting()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give signals back; Lightning does not tear callbacks down after an error."""
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        for number, handler in self._handlers.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        self._handlers = {}


def _end_epoch(loops: dict[str, Any]) -> None:
    """Write loops' counts as they will be once the epoch under way is over, which nothing but its end is missing of.

    Lightning would otherwise end that epoch again, and count it twice, where the run's length is given in steps.
    """
    for counts in loops["epoch_progress"].values():
        counts["completed"] = counts["processed"]
    progress = loops["epoch_loop.batch_progress"]
    if progress["total"]["completed"] < progress["total"]["processed"]:
        progress["total"]["completed"] = progress["total"]["processed"]
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    progress["current"] = dict.fromkeys(progress["current"], 0)
    progress["is_last_batch"] = False


def read_generators() -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's generators, GPUs included, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Set the generators to what `read_generators` returned. GPUs that are not there now are passed over."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _data_order(trainer: Trainer) -> dict[str, Any] | None:
    """Return what decides which rows a batch has, where the data tell."""
    return getattr(getattr(trainer, "datamodule", None), "order_settings", None)
