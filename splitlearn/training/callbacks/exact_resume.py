"""Going on as if nothing had happened: random numbers in checkpoints, and a checkpoint when the run is asked to stop."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from splitlearn.naming import named
from splitlearn.training.callbacks.evaluation import will_validate
from splitlearn.training.callbacks.find_callback import find_callback
from splitlearn.training.callbacks.last_checkpoint import LAST, LastCheckpoint
from splitlearn.training.stop_signals import StopSignals


class ExactResume(Callback):
    """Keeps the state of all random number generators in checkpoints, and writes one when a signal asks the run to stop.

    A resumed run draws the random numbers that the interrupted one would have drawn. On SIGTERM, SIGINT (Ctrl-C) or SIGHUP the
    step under way is finished, ``last.ckpt`` written, and the process ends with 128 plus the signal's number; a line on stderr
    says so at once. For a second signal the handlers that were there before are restored, so it does not wait for the step.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._places: list[dict[str, Any]] = []
        self._signals = StopSignals()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whom signals belong to, before Lightning registers handlers of its own."""
        self._signals.note_handlers()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals end a validation at once that is none of training: Lightning's handler would pass SIGTERM over."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            self._signals.give_back()

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
        checkpoint["data_order"] = _data_order(getattr(trainer, "datamodule", None))
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
        check_data_order(checkpoint, getattr(trainer, "datamodule", None))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the data loader to its place, and wait for signals."""
        loader = trainer.train_dataloader
        # Lightning skips restoring the loader once `estimated_stepping_batches` was read, which our scheduler does for data of
        # known length, so restore it here. For a stream Lightning has restored it, and fetched the first batch already.
        if self._places and loader is not None and hasattr(loader, "load_state_dict") and sized_len(loader) is not None:
            loader.load_state_dict(self._places[0])
        self._places = []
        self._signals.wait(lambda: _how_to_go_on(self._last_checkpoint(trainer), Path(trainer.default_root_dir)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run, with a checkpoint, if it was asked to and this batch ended an optimizer step.

        Raises:
            SystemExit: a signal came.
        """
        epoch_loop = trainer.fit_loop.epoch_loop
        waits = epoch_loop.batch_progress.is_last_batch or trainer.fit_loop._should_accumulate()
        if self._signals.received is not None and not waits and not will_validate(trainer):
            # Lightning would write this step's metrics only after this hook, which ends the run.
            trainer._logger_connector.update_train_step_metrics()
            for logger in trainer.loggers:
                logger.save()
            self._end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run, with a checkpoint, if it was asked to and this validation came in the middle of an epoch.

        Raises:
            SystemExit: a signal came.
        """
        if self._signals.received is not None and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            # Checkpoints come after all other callbacks, and what was just measured may be the best.
            for callback in trainer.checkpoint_callbacks:
                callback.on_validation_end(trainer, pl_module)
            self._end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run, with a checkpoint, if it was asked to in the epoch's last step.

        Raises:
            SystemExit: a signal came.
        """
        if self._signals.received is not None:
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._last_checkpoint(trainer))
        raise SystemExit(128 + (self._signals.received or 0))

    @staticmethod
    def _last_checkpoint(trainer: Trainer) -> Path:
        return Path(getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir) / LAST

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give signals back to whom they belonged, and end the run if one came while the last state was written.

        Raises:
            SystemExit: a signal came.
        """
        self._signals.give_back()
        if self._signals.received is not None:
            if find_callback(trainer, LastCheckpoint) is None:
                trainer.save_checkpoint(self._last_checkpoint(trainer))
            raise SystemExit(128 + self._signals.received)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give signals back; training does not come to its end after an error."""
        self._signals.give_back()


def _how_to_go_on(checkpoint: Path, run_folder: Path) -> str:
    is_of_run = checkpoint == run_folder / "checkpoints" / LAST
    settings = f"ckpt_path=last hydra.run.dir={shlex.quote(str(run_folder))}" if is_of_run else f"ckpt_path={checkpoint}"
    return f"stopping after this step (again to stop at once); go on with {settings}"


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


@contextmanager
def keeping_generators() -> Iterator[None]:
    """Set the generators back afterwards to where they are now."""
    state = read_generators()
    try:
        yield
    finally:
        set_generators(state)


def check_data_order(checkpoint: dict[str, Any], datamodule: Any) -> None:
    """Refuse a checkpoint of the middle of an epoch for data whose epochs are others.

    Args:
        checkpoint: its content.
        datamodule: the run's data.

    Raises:
        ValueError: a setting of the data differs that decides which rows a batch has.
    """
    places = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
    saved, now = checkpoint.get("data_order"), _data_order(datamodule)
    if saved and now and any(place["num_batches"] for place in places):
        # Where there is a digest of the rows, it matters no longer where they lie.
        compared = saved.keys() & now.keys() - ({"source"} if "content" in saved else set())
        changed = [
            f"{named(name)} is {saved[name]} and {now[name]}"
            for name in saved
            if name in compared - {"content"} and saved[name] != now[name]
        ]
        if "content" in compared and saved["content"] != now["content"]:
            changed.append("the rows' own tokens differ, by an edited file, other fields, another template or tokenizer")
        if changed:
            raise ValueError(
                "the checkpoint was written in the middle of an epoch, which can only go on with the same data: "
                f"{'; '.join(changed)}"
            )


def _data_order(datamodule: Any) -> dict[str, Any] | None:
    """Return what decides which rows a batch has, where the data tell."""
    return getattr(datamodule, "order_settings", None)
