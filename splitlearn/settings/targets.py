"""Schemas of the classes that configuration files name as ``_target_``: their arguments, minus those that the project sets.

They are written out, so that a setting is refused without importing Lightning; a test compares them with the signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from splitlearn.settings.fields import Rule
from splitlearn.settings.groups import InstructionSettings, TextSettings

# Arguments of Lightning's Trainer that the project sets itself, and what to use instead.
TRAINER_RESERVED = {
    "accelerator": "set device or device_map",
    "devices": "set device or device_map",
    "num_nodes": "all parts train on one machine; set device or device_map",
    "strategy": "set device or device_map",
    "callbacks": "choose a group with callbacks=..., or add one with callbacks.NAME._target_=...",
    "logger": "choose a group with logger=..., or add one with logger.NAME._target_=...",
    "default_root_dir": "set hydra.run.dir",
    "plugins": "set trainer.precision",
    "barebones": "turn off what it would with callbacks=... and logger=...",
}


@dataclass
class TrainerSettings:
    """``conf/trainer``: Lightning's Trainer."""

    _target_: str
    max_epochs: Annotated[int | None, Rule(least=-1)]
    min_epochs: int | None
    max_steps: Annotated[int, Rule(least=-1)]
    min_steps: int | None
    max_time: Any
    accumulate_grad_batches: Annotated[int, Rule(least=1)]
    gradient_clip_val: Annotated[float | None, Rule(above=0)]
    gradient_clip_algorithm: str | None
    precision: Any
    num_sanity_val_steps: Annotated[int | None, Rule(least=-1)]
    log_every_n_steps: Annotated[int | None, Rule(least=1)]
    fast_dev_run: Any
    limit_train_batches: float | None
    limit_val_batches: float | None
    limit_test_batches: float | None
    limit_predict_batches: float | None
    overfit_batches: float
    val_check_interval: Any
    check_val_every_n_epoch: Annotated[int | None, Rule(least=1)]
    enable_checkpointing: bool | None
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    deterministic: Annotated[Any, Rule(choices=(True, False, None, "warn"))]
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    profiler: str | None
    detect_anomaly: bool
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: int
    enable_autolog_hparams: bool
    model_registry: str | None


@dataclass
class CheckpointSettings:
    """Lightning's ModelCheckpoint."""

    _target_: str
    dirpath: str | None
    filename: str | None
    monitor: str | None
    verbose: bool
    save_last: Any
    save_top_k: int
    save_on_exception: bool
    save_weights_only: bool
    mode: str
    auto_insert_metric_name: bool
    every_n_train_steps: int | None
    train_time_interval: Any
    every_n_epochs: int | None
    save_on_train_epoch_end: bool | None
    enable_version_counter: bool


@dataclass
class BestCheckpointSettings(CheckpointSettings):
    """``splitlearn.training.callbacks.BestCheckpoint``."""

    keep_every_n_steps: Annotated[int | None, Rule(least=1)]


@dataclass
class EvaluationSettings:
    """``splitlearn.training.callbacks.Evaluation``."""

    _target_: str
    every_n_steps: Annotated[int | None, Rule(least=1)]


@dataclass
class EarlyStoppingSettings:
    """Lightning's EarlyStopping."""

    _target_: str
    monitor: str
    min_delta: float
    patience: Annotated[int, Rule(least=0)]
    verbose: bool
    mode: str
    strict: bool
    check_finite: bool
    stopping_threshold: float | None
    divergence_threshold: float | None
    check_on_train_epoch_end: bool | None
    log_rank_zero_only: bool


@dataclass
class NoSettings:
    """A class without arguments."""

    _target_: str


@dataclass
class AttacksSettings:
    """``splitlearn.training.callbacks.Attacks``."""

    _target_: str
    before: bool
    after: bool
    every_n_epochs: Annotated[int | None, Rule(least=1)]


@dataclass
class LastCheckpointSettings:
    """``splitlearn.training.callbacks.LastCheckpoint``."""

    _target_: str
    dirpath: str
    every_n_train_steps: int | None


@dataclass
class BatchSizeFinderSettings:
    """``splitlearn.training.callbacks.FindBatchSize``."""

    _target_: str
    mode: str
    steps_per_trial: Annotated[int, Rule(least=1)]
    init_val: Annotated[int, Rule(least=1)]
    max_val: Annotated[int, Rule(least=1)]
    max_trials: int
    margin: float


@dataclass
class LearningRateFinderSettings:
    """``splitlearn.training.callbacks.FindLearningRate``."""

    _target_: str
    # Their range is checked as one.
    min_lr: Any
    max_lr: Any
    num_training_steps: Annotated[int, Rule(least=20)]
    mode: str
    early_stop_threshold: float | None


@dataclass
class MemoryReportSettings:
    """``splitlearn.training.callbacks.MemoryReport``."""

    _target_: str
    filename: str
    print_table: bool


@dataclass
class StepPhasesSettings:
    """``splitlearn.training.callbacks.StepPhases``."""

    _target_: str
    synchronize: bool


@dataclass
class ProgressSettings:
    """``splitlearn.training.callbacks.make_progress``."""

    _target_: str
    refresh_rate: int
    interval_s: float


@dataclass
class ThroughputSettings:
    """``splitlearn.training.callbacks.TokenThroughput``."""

    _target_: str
    window: Annotated[int, Rule(least=2)]
    counts_flops: bool


@dataclass
class CSVSettings:
    """Lightning's CSVLogger."""

    _target_: str
    save_dir: str
    name: str | None
    version: str | None
    prefix: str
    flush_logs_every_n_steps: int


@dataclass
class TensorBoardSettings:
    """Lightning's TensorBoardLogger, with what it hands on to the writer."""

    _target_: str
    save_dir: str
    name: str | None
    version: str | None
    log_graph: bool
    default_hp_metric: bool
    prefix: str
    sub_dir: str | None
    comment: str
    purge_step: int | None
    max_queue: int
    flush_secs: int
    filename_suffix: str


@dataclass
class MLFlowSettings:
    """Lightning's MLFlowLogger."""

    _target_: str
    experiment_name: str
    run_name: str | None
    tracking_uri: str | None
    tags: Any
    save_dir: str | None
    log_model: Any
    prefix: str
    artifact_location: str | None
    run_id: str | None
    synchronous: bool | None


@dataclass
class WandbSettings:
    """Lightning's WandbLogger, with what it hands on to ``wandb.init``."""

    _target_: str
    name: str | None
    save_dir: str
    version: str | None
    offline: bool
    dir: str | None
    id: str | None
    anonymous: bool | None
    project: str | None
    log_model: Any
    prefix: str
    checkpoint_name: str | None
    add_file_policy: str
    entity: str | None
    group: str | None
    job_type: str | None
    notes: str | None
    mode: str | None
    resume: Any
    tags: Any


_CALLBACKS = "splitlearn.training.callbacks"
TARGETS: dict[str, type] = {
    "lightning.pytorch.Trainer": TrainerSettings,
    "lightning.pytorch.callbacks.ModelCheckpoint": CheckpointSettings,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStoppingSettings,
    "lightning.pytorch.loggers.CSVLogger": CSVSettings,
    "lightning.pytorch.loggers.TensorBoardLogger": TensorBoardSettings,
    "lightning.pytorch.loggers.MLFlowLogger": MLFlowSettings,
    "lightning.pytorch.loggers.WandbLogger": WandbSettings,
    "splitlearn.data.TextDataModule": TextSettings,
    "splitlearn.data.InstructionDataModule": InstructionSettings,
    f"{_CALLBACKS}.BestCheckpoint": BestCheckpointSettings,
    f"{_CALLBACKS}.Attacks": AttacksSettings,
    f"{_CALLBACKS}.Evaluation": EvaluationSettings,
    f"{_CALLBACKS}.ExactResume": NoSettings,
    f"{_CALLBACKS}.FiniteLoss": NoSettings,
    f"{_CALLBACKS}.LastCheckpoint": LastCheckpointSettings,
    f"{_CALLBACKS}.FindBatchSize": BatchSizeFinderSettings,
    f"{_CALLBACKS}.FindLearningRate": LearningRateFinderSettings,
    f"{_CALLBACKS}.MemoryReport": MemoryReportSettings,
    f"{_CALLBACKS}.PartBytes": NoSettings,
    f"{_CALLBACKS}.StepPhases": StepPhasesSettings,
    f"{_CALLBACKS}.make_progress": ProgressSettings,
    f"{_CALLBACKS}.TokenThroughput": ThroughputSettings,
}
