"""Measuring a run's model on held-out text, as the run itself does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from splitlearn.app.configuration import naming_settings, plain
from splitlearn.app.measured_models import MeasuredModel
from splitlearn.cut import Placement
from splitlearn.data import BlockDataModule
from splitlearn.settings import check
from splitlearn.silence import without_lightning_advice
from splitlearn.training import SplitPrecision, SplitStrategy, count_supervised, root_device_arguments
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
        ConnectionError: a server cannot be reached.
    """
    check(cfg, "evaluate")
    opened = MeasuredModel.of_run(cfg.run, cfg.ckpt, cfg.device, cfg.device_map, cfg.server, cfg.certificates)
    given = {key: value for key, value in plain(cfg.data).items() if value is not None}
    datamodule = _make_data(given, opened)
    counts = _Counts()
    with without_lightning_advice():
        trainer = _make_trainer(opened.settings, counts, opened.placement)
        with opened.loaded(cfg.base) as module:
            figures = trainer.validate(module, datamodule=datamodule, verbose=False)[0]
    measured = {"loss": figures["val_loss"], "perplexity": figures["val_perplexity"], **counts.figures}
    model = "base" if cfg.base else cfg.ckpt or "end"
    source = given.get("source", plain(opened.settings.data.source))
    return {"run": str(Path(cfg.run).expanduser()), "model": model, "data": str(source), **measured}


def _make_data(given: Mapping[str, Any], measured: MeasuredModel) -> BlockDataModule:
    """Return the run's data, or given data that are read as the run's; of these all rows are held out."""
    settings = dict(given)
    if "source" in given:
        settings |= {"val_fraction": 0, "val_source": None, "streaming": False}
        settings |= {f"max_train_{unit}": given.get(f"max_val_{unit}") for unit in ("rows", "blocks")}
    data = measured.make_data(settings)
    data.setup("validate")
    if "source" in given:
        data.blocks["val"] = data.blocks["train"]
    if "val" not in data.blocks:
        raise ValueError("the run holds out no text; give some with data.source=...")
    return data


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
