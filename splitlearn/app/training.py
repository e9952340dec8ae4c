"""One run: compose the objects that a configuration names, train, and say what came of it."""

from __future__ import annotations

import copy
import math
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedConfig

from splitlearn.adapters import save_adapters
from splitlearn.app.checking import check_settings
from splitlearn.app.checkpoints import find_checkpoint
from splitlearn.app.configuration import make, plain
from splitlearn.app.models import open_model
from splitlearn.app.process import leaving_no_trace
from splitlearn.checkpoint import CheckpointSource
from splitlearn.cut import PART_NAMES, CutError, SplitPlan, resolve_device_map
from splitlearn.data import PROMPT_FORMAT_FILE, TEMPLATE_FILE, BlockDataModule
from splitlearn.memory import GIB
from splitlearn.model import dtype_in_full, open_checkpoint, save_parts
from splitlearn.planning import check_fit, cost_of
from splitlearn.run_folder import open_run_folder
from splitlearn.settings import check
from splitlearn.training import SplitCausalLM, SplitPrecision, SplitStrategy, part_memory
from splitlearn.training.callbacks import DivergedError, TokenThroughput
from splitlearn.training.callbacks.last_checkpoint import LAST
from splitlearn.training.checkpoint_io import WholeFileCheckpointIO
from splitlearn.training.strategy import root_device_arguments
from splitlearn.training.summary import SUMMARY_FILE, print_summary, write_summary


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


_HAS_BEGUN = "has_begun"


@leaving_no_trace
def train(cfg: DictConfig, folder: str | Path | None = None) -> TrainResult:
    """Cut, load, train, evaluate and save one model.

    Cut, devices, data and settings are checked before any weights are read. Whatever happens, ``summary.json`` in the run's
    folder says so: its ``status`` is ``completed``, ``refused`` (no cut of this model), ``failed``, ``interrupted`` or
    ``diverged``, all but the first with a ``reason``.

    Args:
        cfg: a configuration like ``conf/train.yaml``.
        folder: the run's folder; None takes ``cfg.run_folder``, which only the command line sets.

    Returns:
        The figures and the objects of the run.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting, the data or the checkpoint cannot be used.
        FileNotFoundError: a file or folder does not exist.
    """
    if folder is None and not HydraConfig.initialized():
        raise ValueError("outside the command line train() needs to know the run's folder: train(cfg, folder=...)")
    check(cfg, "train")
    cfg = copy.deepcopy(cfg)
    if folder is not None:
        cfg.run_folder = str(folder)
    run_folder = Path(cfg.run_folder)
    split = {f"split_{point}": plain(cfg.split.get(point)) for point in ("point_1", "point_2")}
    open_run_folder(run_folder)
    summary = {"status": "completed", "model": cfg.model.name_or_path, "folder": str(run_folder.resolve()), **split}
    summary["tags"] = plain(cfg.tags)
    try:
        return _train(cfg, run_folder, summary)
    except BaseException as error:
        status, reason = "failed", str(error) or type(error).__name__
        if isinstance(error, CutError):
            status = "refused"
        elif isinstance(error, DivergedError):
            status = "diverged"
        elif not isinstance(error, Exception):
            status, reason = "interrupted", _how_it_was_stopped(run_folder)
        has_begun = summary.pop(_HAS_BEGUN, False)
        if has_begun or not (run_folder / SUMMARY_FILE).is_file():
            # What an earlier run in this folder left is as good as it was if this one did not begin.
            write_summary(run_folder, summary | {"status": status, "reason": reason})
        raise


def _how_it_was_stopped(run_folder: Path) -> str:
    if (run_folder / "checkpoints" / LAST).is_file():
        return "the run was stopped before it was done; ckpt_path=last goes on from its checkpoint"
    return "the run was stopped before there was a checkpoint; start it again"


def _train(cfg: DictConfig, run_folder: Path, summary: dict[str, Any]) -> TrainResult:
    seed_everything(cfg.seed, workers=True, verbose=False)
    cfg.model.dtype = _dtype(cfg)
    name, config, source, plan = open_model(cfg)
    summary |= {"commit": source.commit, "split_point_1": plan.split_point_1, "split_point_2": plan.split_point_2}
    check_settings(cfg, config)
    ckpt_path = find_checkpoint(cfg.ckpt_path, run_folder)
    module = _make_module(cfg, name, plan)
    _check_memory(cfg, config, source, plan, module)
    datamodule: LightningDataModule = make(cfg.data, tokenizer_name_or_path=name, tokenizer_revision=source.commit)
    trainer = _make_trainer(cfg, run_folder)
    # Bad data is found here, before weights are read.
    datamodule.setup("fit")
    _check_data(datamodule, config, cfg.verbose)
    with _keeping_metrics(run_folder, summary), _with_less_advice(), module.tracker:
        # What a resumed run begins with is the checkpoint's model and not the base model.
        before = trainer.validate(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)[0]
        # Whatever could be refused has been by now.
        summary[_HAS_BEGUN] = True
        OmegaConf.save(cfg, run_folder / "config.yaml", resolve=True)
        metrics = _fit(trainer, module, datamodule, before, ckpt_path)
    saved = _save(cfg, module, run_folder)
    for name in (TEMPLATE_FILE, PROMPT_FORMAT_FILE):
        (run_folder / name).unlink(missing_ok=True)
    if isinstance(datamodule, BlockDataModule):
        datamodule.save_prompt_format(run_folder)
    summary.pop(_HAS_BEGUN)
    if not math.isfinite(metrics["val_loss_after"]):
        summary |= {"status": "diverged", "reason": "the held-out loss is no longer a finite number"}
    summary |= {"metrics": metrics, "parts": [part.to_dict() for part in part_memory(module.parts)]}
    summary["loading"] = [asdict(part.receipt) for part in module.parts if part.receipt is not None]
    summary |= {"trained": module.trained, "learning_rate": module.learning_rate, "batch_size": cfg.data.get("batch_size")}
    if isinstance(datamodule, BlockDataModule):
        summary["batch_size"] = datamodule.batch_size
    stopped = [each for each in trainer.callbacks if isinstance(each, EarlyStopping) and each.stopped_epoch]
    if stopped:
        summary["stopped_early"] = f"{stopped[0].monitor} no longer improved in epoch {stopped[0].stopped_epoch + 1}"
    summary |= {"saved_parts": saved.get("parts"), "adapters": saved.get("adapters"), "versions": _versions()}
    write_summary(run_folder, summary)
    print_summary(summary)
    return TrainResult(metrics, module, datamodule, trainer, run_folder)


def _check_memory(
    cfg: DictConfig, config: PreTrainedConfig, source: CheckpointSource, plan: SplitPlan, module: SplitCausalLM
) -> None:
    """Refuse a run whose weights, gradients and optimizer state alone are more than this machine's memory."""
    devices = resolve_device_map(cfg.device, plain(cfg.device_map), num_gpus=torch.cuda.device_count())
    loader = open_checkpoint(config, source, module.load_dtype, parts=(), unexpected_tensors=cfg.model.unexpected_tensors)
    loader.blueprint.check(plan)
    size: dict[str, Any] = {"num_rows": 1, "num_tokens": 1, "lora_rank": 1, "with_activations": False}
    size["full_dtype"] = dtype_in_full(module.load_dtype, loader.blueprint.dtype)
    cost = cost_of(loader, plan, devices, **size, quantization=plain(cfg.model.quantization))
    is_full = {name: module.trains(name) == "full" for name in PART_NAMES}
    check_fit(cost, {name: "full" if full else "load" for name, full in is_full.items()})


def _check_data(datamodule: LightningDataModule, config: PreTrainedConfig, verbose: bool) -> None:
    """Refuse tokens that the model does not know, and show what it will be trained on."""
    if not isinstance(datamodule, BlockDataModule):
        return
    datamodule.check_token_ids(config.get_text_config(decoder=True).vocab_size)
    if verbose:
        print(f"the training data begin with (what is learned stands between » and «):\n{datamodule.sample()}\n")


@contextmanager
def _keeping_metrics(run_folder: Path, summary: Mapping[str, Any]) -> Iterator[None]:
    """Put what an earlier run in the same folder logged aside, and back if this one does not begin.

    Lightning's logger deletes it as soon as anything is run.
    """
    folder, aside = run_folder / "metrics", None
    if folder.is_dir():
        aside = run_folder / f"metrics_until_resume_{1 + sum(1 for _ in run_folder.glob('metrics_until_resume_*'))}"
        folder.rename(aside)
    try:
        yield
    finally:
        if aside is not None and not summary.get(_HAS_BEGUN):
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)


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
        wanted = [part for part in module.parts if module.trained[part.part.name] not in ("adapters", "frozen")]
    if cfg.model.quantization is not None:
        # What was quantized is in the base checkpoint, with more digits.
        wanted = [part for part in wanted if module.trained[part.part.name] == "full"]
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


def _make_module(cfg: DictConfig, name: str, plan: SplitPlan) -> SplitCausalLM:
    return SplitCausalLM(
        name,
        plan.split_point_1,
        plan.split_point_2,
        model_type=cfg.model.type,
        device=cfg.device,
        device_map=plain(cfg.device_map),
        low_memory=cfg.model.low_memory,
        dtype=cfg.model.dtype,
        optimizer=plain(cfg.optimizer),
        verbose=cfg.verbose,
        revision=cfg.model.revision,
        peft=plain(cfg.peft),
        gradient_checkpointing=cfg.gradient_checkpointing,
        activation_cache=plain(cfg.activation_cache),
        max_logits_mib=cfg.max_logits_mib,
        quantization=plain(cfg.model.quantization),
        unexpected_tensors=cfg.model.unexpected_tensors,
        compile_layers=plain(cfg.compile),
    )


def _chosen(cfg: DictConfig, group: str) -> list[Any]:
    """Return the settings of what a group names; none if it was left out, as with ``~logger``."""
    return [settings for settings in (cfg.get(group) or {}).values() if settings is not None]


def _make_trainer(cfg: DictConfig, run_folder: Path) -> Trainer:
    devices = resolve_device_map(cfg.device, plain(cfg.device_map), num_gpus=torch.cuda.device_count())
    settings = dict(cfg.trainer)
    precision = SplitPrecision(settings.pop("precision"), devices)
    callbacks: list[Callback] = [make(each) for each in _chosen(cfg, "callbacks")]
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


def _fit(
    trainer: Trainer, module: SplitCausalLM, datamodule: LightningDataModule, before: Mapping[str, float], ckpt_path: str | None
) -> dict[str, Any]:
    """Train, evaluate, and return the figures of the run."""
    began_s = time.perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    train_s = time.perf_counter() - began_s
    after = trainer.validate(module, datamodule=datamodule, verbose=False)[0]
    throughput = next((each for each in trainer.callbacks if isinstance(each, TokenThroughput)), None)
    tracker = module.tracker
    metrics: dict[str, Any] = {f"{name}_before": before[name] for name in ("val_loss", "val_perplexity")}
    metrics |= {f"{name}_after": after[name] for name in ("val_loss", "val_perplexity")}
    metrics |= {
        "train_s": train_s,
        "train_steps": throughput.num_steps if throughput else trainer.global_step,
        "train_tokens": throughput.num_tokens if throughput else 0,
        "train_padding_tokens": throughput.num_padding_tokens if throughput else 0,
        "tokens_per_s": throughput.tokens_per_s if throughput else None,
        "peak_rss_gib": tracker.peak_rss_bytes / GIB,
        "peak_anonymous_gib": tracker.peak_anonymous_bytes / GIB,
        "peak_gpu_gib": tracker.peak_gpu_bytes / GIB,
    }
    return metrics


def _versions() -> dict[str, str]:
    names = ("splitlearn", "torch", "lightning", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
