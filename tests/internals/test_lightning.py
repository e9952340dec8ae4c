"""What of Lightning is not public and this library uses."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint, Timer

from tests.internals.relied_upon import Internal, check, files_using

EPOCH_LOOP = "lightning.pytorch.loops.training_epoch_loop:_TrainingEpochLoop"
FIT_LOOP = "lightning.pytorch.loops.fit_loop:_FitLoop"
CHECKPOINT = "lightning.pytorch.callbacks:ModelCheckpoint"


def trainer() -> Trainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def a_trainers_fit_loop() -> Any:
    return trainer().fit_loop


def a_trainers_epoch_loop() -> Any:
    return trainer().fit_loop.epoch_loop


def a_trainers_logger_connector() -> Any:
    return trainer()._logger_connector


def early_stopping() -> EarlyStopping:
    return EarlyStopping("val_loss")


INTERNALS = [
    Internal(
        "lightning.pytorch.profilers", "Profiler", "hearing of what Lightning begins and ends, beside the profiler of the user"
    ),
    Internal(EPOCH_LOOP, "_should_accumulate", "whether a batch ends an optimizer step"),
    Internal(EPOCH_LOOP, "_should_check_val_fx", "whether a validation follows a batch", ("data_fetcher",)),
    Internal(EPOCH_LOOP, "_num_ready_batches_reached", "whether a batch is an epoch's last"),
    Internal(EPOCH_LOOP, "_is_training_done", "whether a batch ends the run"),
    Internal(a_trainers_epoch_loop, "_batches_that_stepped", "the step that loggers show, put right in checkpoints"),
    Internal(FIT_LOOP, "_should_accumulate", "whether a batch ends an optimizer step"),
    Internal(a_trainers_fit_loop, "_data_fetcher", "whether a validation follows a batch"),
    Internal(trainer, "_logger_connector", "the last row of metrics, before a signal ends the run"),
    Internal(a_trainers_logger_connector, "update_train_step_metrics", "the last row of metrics, before a signal ends the run"),
    Internal(CHECKPOINT, "_monitor_candidates", "the names in a checkpoint's file name", ("trainer",)),
    Internal(CHECKPOINT, "_should_skip_saving_checkpoint", "whether this step's checkpoint is there already", ("trainer",)),
    Internal(CHECKPOINT, "_save_checkpoint", "writing a checkpoint to be kept", ("trainer", "filepath")),
    Internal(CHECKPOINT, "_save_last_checkpoint", "writing last.ckpt", ("trainer", "monitor_candidates")),
    Internal(CHECKPOINT, "_should_remove_checkpoint", "keeping checkpoints for good", ("trainer", "previous", "current")),
    Internal(ModelCheckpoint, "_last_global_step_saved", "whether this step's checkpoint is there already"),
    Internal(ModelCheckpoint, "_every_n_train_steps", "whether last.ckpt waits for a validation"),
    Internal(LearningRateFinder, "_min_lr", "the sentence for a search that found nothing"),
    Internal(LearningRateFinder, "_max_lr", "the sentence for a search that found nothing"),
    Internal(LearningRateFinder, "_num_training_steps", "the sentence for a search that found nothing"),
    Internal(Timer, "_offset", "a time limit that does not count attacks"),
    Internal(BatchSizeFinder, "_batch_arg_name", "setting the batch size of a resumed run"),
    Internal(early_stopping, "_check_on_train_epoch_end", "early stopping by validations between epochs"),
    Internal(LightningModule, "_trainer", "whether a module has a trainer; `trainer` raises if it has none"),
    Internal("lightning.pytorch.strategies:SingleDeviceStrategy", "_setup_model", "set-up without moving parts", ("model",)),
    Internal(
        "lightning.pytorch.utilities.parsing", "lightning_setattr", "setting what was found", ("model", "attribute", "value")
    ),
    Internal("lightning.pytorch.utilities.exceptions", "SIGTERMException", "runs that SIGTERM ended, told as such"),
    Internal("lightning.pytorch.trainer.states", "TrainerFn", "telling validations of training from others"),
    Internal("lightning.fabric.utilities.data", "sized_len", "whether the length of data is known", ("dataloader",)),
    Internal("lightning.fabric.utilities.data", "AttributeDict", "the type of a module's hyperparameters"),
    Internal("lightning.fabric.utilities.throughput", "Throughput", "tokens a second", ("available_flops", "world_size")),
    Internal("lightning.fabric.utilities.throughput", "get_available_flops", "what a GPU can do", ("device", "dtype")),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("lightning", internal)


def test_the_counts_in_checkpoints_have_the_same_names() -> None:
    """Resuming puts counts of Lightning's loops right in the checkpoint itself."""
    state = trainer().fit_loop.state_dict()
    users = files_using("epoch_loop.batch_progress")
    assert users, "no file puts the counts right any more"
    names = ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.state_dict", "state_dict")
    change = f"Lightning's loops write other counts into checkpoints than {', '.join(users)} put right: {sorted(state)}"
    assert set(names) <= set(state), change
    assert "_batches_that_stepped" in state["epoch_loop.state_dict"], change
    for name in ("epoch_loop.batch_progress", "epoch_progress"):
        for counts in ("current", "total"):
            assert {"started", "processed", "completed"} <= set(state[name][counts]), change
    assert "is_last_batch" in state["epoch_loop.batch_progress"], change
