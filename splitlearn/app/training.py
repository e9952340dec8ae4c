"""One run: compose the objects that a configuration names, train, and say what came of it."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from omegaconf import DictConfig, OmegaConf

from splitlearn.adapters import save_adapters
from splitlearn.app.checking import check_settings
from splitlearn.app.checkpoints import check_fit_of, find_best, find_checkpoint, read_checkpoint, refuse_finished
from splitlearn.app.configuration import make, naming_settings, plain
from splitlearn.app.models import open_model
from splitlearn.app.placing import describe_placement, resolve_placement
from splitlearn.app.process import leaving_no_trace
from splitlearn.app.rates import optimizer_settings, rate_of_adapters
from splitlearn.app.recorder import Recorder
from splitlearn.app.run_folder import keeping_metrics, refuse_second_run
from splitlearn.cut import Placement
from splitlearn.data import PROMPT_FORMAT_FILE, TEMPLATE_FILE, BlockDataModule, base_tokenizer_digest
from splitlearn.loading import OpenedModel, dtype_in_full, save_parts
from splitlearn.memory import GIB
from splitlearn.planning import check_fit, cost_of, least_methods
from splitlearn.runs import hold_run_folder, open_run_folder
from splitlearn.settings import check
from splitlearn.training import (
    SplitCausalLM,
    SplitPrecision,
    SplitStrategy,
    WholeFileCheckpointIO,
    load_trained_tensors,
    refuse_divided_ties,
    root_device_arguments,
)
from splitlearn.training.callbacks import (
    BestCheckpoint,
    Evaluation,
    RunFigures,
    TokenThroughput,
    Traffic,
    find_callback,
    saved_figures,
)


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        metrics: the figures of ``summary.json``.
        module: the trained module with its three parts.
        datamodule: the data.
        trainer: Lightning's trainer.
        folder: the run's folder.
    """

    metrics: dict[str, float]
    module: SplitCausalLM
    datamodule: LightningDataModule
    trainer: Trainer
    folder: Path


@leaving_no_trace
@naming_settings()
def train(cfg: DictConfig, folder: str | Path | None = None) -> TrainResult:
    """Cut, load, train, evaluate and save one model.

    Cut, devices, data and settings are checked before any weights are read. Whatever happens, ``summary.json`` in the run's
    folder says so: its ``status`` is ``completed``, ``refused`` (no cut of this model), ``failed``, ``interrupted`` or
    ``diverged``, all but the first with a ``reason``. A folder that holds another run is left as it is.

    Args:
        cfg: a configuration like ``conf/train.yaml``.
        folder: the run's folder; None takes ``cfg.run_folder``, which only the command line sets.

    Returns:
        The figures and the objects of the run.

    Raises:
        CutError: the split points do not cut the model.
        FinishedRunError: ``ckpt_path`` is of a run that has nothing left to do.
        ValueError: a setting, the data or the checkpoint cannot be used, or the folder holds another run, or one that goes on.
        FileNotFoundError: a file or folder does not exist.
    """
    if folder is None and not HydraConfig.initialized():
        raise ValueError("outside the command line train() needs to know the run's folder: train(cfg, folder=...)")
    check(cfg, "train")
    cfg = copy.deepcopy(cfg)
    if folder is not None:
        cfg.run_folder = str(folder)
    with hold_run_folder(open_run_folder(cfg.run_folder)):
        recorder = Recorder(cfg, Path(cfg.run_folder))
        try:
            return _train(cfg, recorder)
        except BaseException as error:
            recorder.end_badly(error)
            raise


def _train(cfg: DictConfig, recorder: Recorder) -> TrainResult:
    run_folder = recorder.folder
    ckpt_path = find_checkpoint(cfg.ckpt_path, run_folder)
    refuse_second_run(run_folder, ckpt_path, cfg.overwrite, starts_if_empty=cfg.ckpt_path == "auto")
    checkpoint = None if ckpt_path is None else read_checkpoint(ckpt_path)
    seed_everything(cfg.seed, workers=True, verbose=False)
    cfg.model.dtype = _dtype(cfg)
    placement = resolve_placement(cfg)
    if cfg.data.get("streaming") and cfg.trainer.get("max_steps", -1) > 0:
        # The number of steps alone says how long: rows are passed as often as it takes.
        cfg.trainer.max_epochs = -1
    cfg.optimizer = optimizer_settings(cfg)
    opened = open_model(cfg)
    plan, commit = opened.plan, opened.source.commit
    recorder.note(commit=commit, split_point_1=plan.split_point_1, split_point_2=plan.split_point_2)
    recorder.note(placement=describe_placement(placement))
    check_settings(cfg, opened.config)
    if checkpoint is not None and run_folder.resolve() in Path(str(ckpt_path)).resolve().parents:
        refuse_finished(checkpoint, str(ckpt_path), cfg)
    module = make_module(cfg, opened, placement)
    _check_memory(opened, module)
    if cfg.verbose and module.adapters.method is not None:
        print(f"learning rate of adapters: {rate_of_adapters(module):g}")
    datamodule: LightningDataModule = make(cfg.data, tokenizer_name_or_path=opened.source.name, tokenizer_revision=commit)
    figures = RunFigures()
    trainer = _make_trainer(cfg, run_folder, figures, placement)
    # Bad data is found here, before weights are read.
    datamodule.setup("fit")
    _check_data(datamodule, opened, cfg.verbose)
    _check_watched(cfg, datamodule)
    recorder.note(rows=datamodule.counts if isinstance(datamodule, BlockDataModule) else None)
    with keeping_metrics(run_folder, lambda: recorder.has_begun), _with_less_advice(), module.tracker:
        if checkpoint is not None:
            check_fit_of(checkpoint, module, datamodule)
        _measure_before(figures, trainer, module, datamodule, checkpoint)
        # Whatever could be refused has been by now.
        recorder.begin(cfg, trainer, replaces=ckpt_path is None or cfg.overwrite)
        # An interrupted run is asked in the same way as a completed one.
        for file in (TEMPLATE_FILE, PROMPT_FORMAT_FILE):
            (run_folder / file).unlink(missing_ok=True)
        if isinstance(datamodule, BlockDataModule):
            datamodule.save_prompt_format(run_folder)
        metrics = _fit(trainer, module, datamodule, figures, ckpt_path, cfg.load_best_model_at_end)
    saved = _save(cfg, module, run_folder)
    recorder.complete(cfg, metrics, module, datamodule, trainer, saved)
    return TrainResult(metrics, module, datamodule, trainer, run_folder)


def _check_memory(opened: OpenedModel, module: SplitCausalLM) -> None:
    """Refuse a tie between parties, and weights, gradients and optimizer state that are more than this machine's memory."""
    opened.blueprint.check(opened.plan)
    refuse_divided_ties(opened.blueprint, opened.plan, module.placement, module.trained)
    size: dict[str, Any] = {"num_rows": 1, "num_tokens": 1, "lora_rank": 1, "with_activations": False}
    size["full_dtype"] = dtype_in_full(opened.request.dtype, opened.dtype)
    cost = cost_of(opened, module.placement.devices, **size)
    check_fit(cost, least_methods(module.trained))


def _check_data(datamodule: LightningDataModule, opened: OpenedModel, verbose: bool) -> None:
    """Refuse tokens that the model does not know, and show what it will be trained on."""
    if not isinstance(datamodule, BlockDataModule):
        return
    datamodule.check_token_ids(opened.config.get_text_config(decoder=True).vocab_size)
    if verbose:
        print(datamodule.describe())
        print(f"the training data begin with (what is learned stands between » and «):\n{datamodule.sample()}\n")


def _check_watched(cfg: DictConfig, datamodule: LightningDataModule) -> None:
    """Refuse settings that wait for a held-out loss where nothing is held out."""
    if not isinstance(datamodule, BlockDataModule) or datamodule.has_held_out:
        return
    names = ["load_best_model_at_end=true"] if cfg.load_best_model_at_end else []
    for name, callback in cfg.callbacks.items() if OmegaConf.is_dict(cfg.callbacks) else ():
        # The best checkpoint is then simply the latest.
        if OmegaConf.is_dict(callback) and name != "checkpoint" and str(callback.get("monitor")).startswith("val_"):
            names.append(f"callbacks.{name}")
    if names:
        raise ValueError(f"nothing is held out, but {' and '.join(names)} needs the held-out loss; hold out some rows")


@contextmanager
def _with_less_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        # Advice on worker processes: the packed blocks are in memory, so workers would only cost.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning's own use of torch, which no user can change.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        yield


def _save(cfg: DictConfig, module: SplitCausalLM, run_folder: Path) -> dict[str, str]:
    """Save adapters, and parts if that is wanted: beside adapters those that were trained themselves; return the folders."""
    folders = {}
    wanted = list(module.parts)
    if module.adapters.method is not None:
        save_adapters(module.parts, module.adapters, run_folder / "adapters")
        folders["adapters"] = str((run_folder / "adapters").resolve())
        wanted = [part for part in module.parts if module.trained[part.spec.name].trains_weights]
    if cfg.model.quantization is not None:
        # What was quantized is in the base checkpoint, with more digits.
        wanted = [part for part in wanted if module.trained[part.spec.name].trains_all_weights]
    if cfg.save_parts and wanted:
        save_parts(wanted, run_folder / "parts")
        folders["parts"] = str((run_folder / "parts").resolve())
    return folders


def _dtype(cfg: DictConfig) -> str | None:
    """Return what weights are loaded in: ``trainer.precision=bf16-true`` says it too."""
    if cfg.trainer.precision != "bf16-true":
        return cfg.model.dtype
    if cfg.model.dtype not in (None, "bfloat16"):
        raise ValueError(f"trainer.precision is bf16-true, but model.dtype is {cfg.model.dtype}; leave one of them out")
    return "bfloat16"


def make_module(cfg: DictConfig, opened: OpenedModel, placement: Placement) -> SplitCausalLM:
    """Make the module of a configuration, without loading its parts."""
    return SplitCausalLM.from_opened(
        opened,
        placement=placement,
        low_memory=cfg.model.low_memory,
        optimizer=plain(cfg.optimizer),
        verbose=cfg.verbose,
        peft=plain(cfg.peft),
        gradient_checkpointing=cfg.gradient_checkpointing,
        activation_cache=plain(cfg.activation_cache),
        max_logits_mib=cfg.max_logits_mib,
        compile_layers=plain(cfg.compile),
    )


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """Return the settings of what a group names; none if it was left out, as with ``~logger``."""
    return [settings for settings in (cfg.get(group) or {}).values() if settings is not None]


def _make_trainer(cfg: DictConfig, run_folder: Path, figures: RunFigures, placement: Placement) -> Trainer:
    devices = placement.devices
    settings = dict(cfg.trainer)
    precision = SplitPrecision(settings.pop("precision"), devices)
    callbacks: list[Callback] = [figures, Traffic(), *(_make_callback(each, cfg) for each in _chosen(cfg, "callbacks"))]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [each for each in callbacks if not isinstance(each, ProgressBar)]
    return make(
        settings,
        **root_device_arguments(devices),
        strategy=SplitStrategy(devices, precision_plugin=precision, checkpoint_io=WholeFileCheckpointIO()),
        callbacks=callbacks,
        logger=[make(each) for each in _chosen(cfg, "logger")],
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


def _measure_before(
    figures: RunFigures,
    trainer: Trainer,
    module: SplitCausalLM,
    datamodule: LightningDataModule,
    checkpoint: Mapping[str, Any] | None,
) -> None:
    """Find the base model's held-out loss: in the checkpoint, if it was measured on the same rows, or by measuring it."""
    figures.held_out = _identify_held_out(datamodule, trainer)
    figures.tokenizer = base_tokenizer_digest(module.hparams["model_name_or_path"], module.hparams["revision"])
    saved = {} if checkpoint is None else saved_figures(checkpoint)
    if saved.get("before") is not None and saved["held_out"] == figures.held_out:
        figures.before = saved["before"]
        return
    measured = trainer.validate(module, datamodule=datamodule, verbose=False)
    figures.before = dict(measured[0]) if measured else {}


def _identify_held_out(datamodule: LightningDataModule, trainer: Trainer) -> str | None:
    if not isinstance(datamodule, BlockDataModule) or "val" not in datamodule.blocks:
        return None
    return f"{datamodule.digest('val')}, limit_val_batches={trainer.limit_val_batches}"


def _fit(
    trainer: Trainer,
    module: SplitCausalLM,
    datamodule: LightningDataModule,
    figures: RunFigures,
    ckpt_path: str | None,
    loads_best: bool,
) -> dict[str, Any]:
    """Train, evaluate, and return the figures of the run."""
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    figures.stop()
    after = _last_figures(trainer, module, datamodule)
    best = find_best(trainer) if loads_best else None
    if best is not None and best["step"] != trainer.global_step:
        load_trained_tensors(module.parts, read_checkpoint(best["file"])["state_dict"])
        after = {"val_loss": best["val_loss"], "val_perplexity": math.exp(best["val_loss"])}
    throughput = find_callback(trainer, TokenThroughput)
    tracker = module.tracker
    before = figures.before or {}
    metrics: dict[str, Any] = {f"{name}_before": before.get(name) for name in ("val_loss", "val_perplexity")}
    metrics |= {f"{name}_after": after.get(name) for name in ("val_loss", "val_perplexity")}
    metrics |= {
        "train_s": figures.train_s - (throughput.counting_s if throughput else 0.0),
        "train_steps": trainer.global_step,
        "train_tokens": throughput.num_tokens if throughput else 0,
        "train_padding_tokens": throughput.num_padding_tokens if throughput else 0,
        "tokens_per_s": throughput.tokens_per_s if throughput else None,
        "peak_rss_gib": tracker.peak_rss_bytes / GIB,
        "peak_anonymous_gib": tracker.peak_anonymous_bytes / GIB,
        "peak_gpu_gib": tracker.peak_gpu_bytes / GIB,
    }
    return metrics


def _last_figures(trainer: Trainer, module: SplitCausalLM, datamodule: LightningDataModule) -> Mapping[str, float]:
    """Return the held-out loss after the last step, measured now unless the run has measured it there."""
    evaluation = find_callback(trainer, Evaluation)
    if evaluation is not None and evaluation.last_step == trainer.global_step and evaluation.last_figures:
        return evaluation.last_figures
    measured = trainer.validate(module, datamodule=datamodule, verbose=False)
    return measured[0] if measured else {}
