"""The module and the trainer that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from omegaconf import DictConfig

from splitlearn.app.configuration import make, plain
from splitlearn.app.simulating import simulation_of
from splitlearn.cut import Placement
from splitlearn.loading import OpenedModel
from splitlearn.silence import without_lightning_advice
from splitlearn.training import (
    ClientSettings,
    SimulatedClients,
    SplitCausalLM,
    SplitPrecision,
    SplitStrategy,
    WholeFileCheckpointIO,
    root_device_arguments,
)
from splitlearn.training.callbacks import BestCheckpoint


def make_module(cfg: DictConfig, opened: OpenedModel, placement: Placement, *, simulates: bool = False) -> SplitCausalLM:
    """Make the module of a configuration, without loading its parts.

    Args:
        cfg: the run's configuration.
        opened: the model, cut.
        placement: who holds which part.
        simulates: whether the module has all clients of the configuration; otherwise it is that of the first.

    Raises:
        ValueError: a setting is unknown or out of range.
    """
    simulation = simulation_of(cfg) if simulates else None
    several = {} if simulation is None else {"simulation": simulation}
    return (SimulatedClients if several else SplitCausalLM).from_opened(
        opened,
        **several,
        placement=placement,
        low_memory=cfg.model.low_memory,
        optimizer=plain(cfg.optimizer),
        verbose=cfg.verbose,
        peft=plain(cfg.peft),
        gradient_checkpointing=cfg.gradient_checkpointing,
        activation_cache=plain(cfg.activation_cache),
        max_logits_mib=cfg.max_logits_mib,
        compile_layers=plain(cfg.compile),
        # Runs of older releases have none.
        boundary=plain(cfg.get("boundary")),
        defence=plain(cfg.get("defence")),
        privacy=plain(cfg.get("privacy")),
        microbatches=(cfg.get("placement") or {}).get("microbatches", 1),
    )


def make_trainer(cfg: DictConfig, run_folder: Path, own_callbacks: Sequence[Callback], placement: Placement) -> Trainer:
    """Make the trainer of a configuration, with its callbacks and loggers.

    Args:
        cfg: the run's configuration.
        run_folder: where it writes.
        own_callbacks: callbacks that no setting names.
        placement: who holds which part.

    Raises:
        ValueError: a setting of Lightning, a callback or a logger cannot be used.
    """
    devices = placement.devices
    trainer_settings = dict(cfg.trainer)
    precision = SplitPrecision(trainer_settings.pop("precision"), devices)
    simulation = simulation_of(cfg)
    if simulation is not None:
        each = trainer_settings["accumulate_grad_batches"]
        trainer_settings["accumulate_grad_batches"] = ClientSettings.from_plain(simulation).batches_per_step(each)
    callbacks: list[Callback] = [*own_callbacks, *(_make_callback(settings, cfg) for settings in _chosen(cfg, "callbacks"))]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    # Without any of these callbacks Lightning would write checkpoints of its own, beside the logger's files.
    trainer_settings.setdefault("enable_checkpointing", any(isinstance(callback, Checkpoint) for callback in callbacks))
    loggers = [make(settings) for settings in _chosen(cfg, "logger")]
    with without_lightning_advice():
        return make(
            trainer_settings,
            **root_device_arguments(devices),
            strategy=SplitStrategy(devices, precision_plugin=precision, checkpoint_io=WholeFileCheckpointIO()),
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=str(run_folder),
            _convert_="partial",
        )


def _make_callback(settings: DictConfig, cfg: DictConfig) -> Callback:
    # Left out of conf/callbacks/checkpoint.yaml, so that +callbacks.checkpoint.save_top_k=... can be said there.
    is_best = settings.get("_target_", "").endswith(f".{BestCheckpoint.__name__}")
    callback: Callback = make(settings, **({"save_top_k": cfg.save_top_k} if is_best and "save_top_k" not in settings else {}))
    if isinstance(callback, EarlyStopping) and cfg.eval_steps is not None and callback._check_on_train_epoch_end is None:
        # Otherwise it would look at the epochs' ends alone, where nothing new is measured.
        callback._check_on_train_epoch_end = False
    return callback


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """Return the settings of what a group names; none if it was left out, as with ``~logger``."""
    return [settings for settings in (cfg.get(group) or {}).values() if settings is not None]
