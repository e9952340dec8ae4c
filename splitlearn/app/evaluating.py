"""Measuring a run's model on held-out text, as the run itself does."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from splitlearn.adapters import load_adapters
from splitlearn.app.configuration import literal, make, naming_settings, plain
from splitlearn.app.making import make_module
from splitlearn.app.opening_runs import open_run
from splitlearn.app.placing import resolve_placement
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PartTraining, Placement
from splitlearn.data import BlockDataModule
from splitlearn.export import RunRecord, load_saved_part, saved_adapters
from splitlearn.model import trained_parameters
from splitlearn.settings import TARGETS, check
from splitlearn.silence import without_lightning_advice
from splitlearn.training import (
    SplitCausalLM,
    SplitPrecision,
    SplitStrategy,
    count_supervised,
    load_trained_tensors,
    root_device_arguments,
)
from splitlearn.training.callbacks import count_tokens


class _Counts(Callback):
    """Counts what is measured on."""

    def __init__(self) -> None:
        self.figures = {"rows": 0, "tokens": 0, "supervised_tokens": 0}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count a batch."""
        self.figures["rows"] += len(batch["input_ids"])
        self.figures["tokens"] += count_tokens(batch)
        self.figures["supervised_tokens"] += count_supervised(batch["labels"])


@naming_settings()
def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure the loss of a run's model, of one of its checkpoints, or of its base model. Nothing is written.

    Args:
        cfg: a configuration like ``conf/evaluate.yaml``.

    Returns:
        ``loss`` in nats for each supervised token, ``perplexity``, and how many ``rows``, ``tokens`` and ``supervised_tokens``
        they are of.

    Raises:
        ValueError: a setting, the data or the checkpoint cannot be used.
        FileNotFoundError: the run's folder is none, or lacks what was trained.
    """
    check(cfg, "evaluate")
    record, opened = open_run(cfg.run, cfg.ckpt)
    run = literal(record.config)
    run.verbose = False
    for name in ("device", "device_map"):
        if cfg[name] is not None:
            run[name] = cfg[name]
            _forget_devices(run)
    placement = resolve_placement(run)
    datamodule = _make_data(cfg, run, opened.source.name, opened.source.commit)
    module = make_module(run, opened.revise(quantization=plain(run.model.get("quantization"))), placement)
    module.load_parts()
    if not cfg.base:
        _fill(module, record)
    counts = _Counts()
    trainer = _make_trainer(run, counts, placement)
    with without_lightning_advice():
        figures = trainer.validate(module, datamodule=datamodule, verbose=False)[0]
    measured = {"loss": figures["val_loss"], "perplexity": figures["val_perplexity"], **counts.figures}
    model = "base" if cfg.base else cfg.ckpt or "end"
    return {"run": str(record.folder), "model": model, "data": str(plain(run.data.source)), **measured}


def _forget_devices(run: DictConfig) -> None:
    """Have all parts of a run go where ``device`` and ``device_map`` say, whatever its parties' own devices were."""
    for party in (run.get("placement") or {}).get("parties", {}).values():
        party["devices"] = None


def _make_data(cfg: DictConfig, run: DictConfig, name: str, commit: str | None) -> BlockDataModule:
    """Return the run's data, or given data that are read as the run's; of these all rows are held out."""
    target = run.data.get("_target_")
    if target not in TARGETS or not str(target).startswith("splitlearn.data."):
        # Hydra would import and call any class that a configuration file names.
        raise ValueError(
            f"the run's data module {target} is none of splitlearn's own, so it is not made from its configuration"
        )
    given = {key: value for key, value in plain(cfg.data).items() if value is not None}
    settings = {**plain(run.data), **given}
    if "source" in given:
        settings |= {"val_fraction": 0, "val_source": None, "streaming": False}
        settings |= {f"max_train_{unit}": given.get(f"max_val_{unit}") for unit in ("rows", "blocks")}
    run.data = literal(settings)
    data: BlockDataModule = make(run.data, tokenizer_name_or_path=name, tokenizer_revision=commit)
    data.setup("validate")
    if "source" in given:
        data.blocks["val"] = data.blocks["train"]
    if "val" not in data.blocks:
        raise ValueError("the run holds out no text; give some with data.source=...")
    return data


def _fill(module: SplitCausalLM, record: RunRecord) -> None:
    """Put into the loaded parts what the run has trained."""
    if record.checkpoint is not None:
        tensors = record.checkpoint["state_dict"]
        differing = trained_parameters(module.parts).keys() ^ tensors.keys()
        if differing:
            raise CheckpointError(f"the checkpoint and the run's model differ in {min(differing)}; is it of this run?")
        load_trained_tensors(module.parts, tensors)
        return
    for part in module.parts:
        what = record.trained[part.spec.name]
        if what is PartTraining.ADAPTERS:
            load_adapters([part], saved_adapters(record))
        elif what.trains_weights:
            saved = load_saved_part(record, part.spec.name)
            with torch.no_grad():
                part.model.load_state_dict(saved.model.state_dict())


def _make_trainer(run: DictConfig, counts: _Counts, placement: Placement) -> Trainer:
    devices = placement.devices
    precision = SplitPrecision(run.trainer.precision, devices)
    return Trainer(
        **root_device_arguments(devices),
        strategy=SplitStrategy(devices, precision_plugin=precision),
        callbacks=[counts],
        limit_val_batches=run.trainer.get("limit_val_batches"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
