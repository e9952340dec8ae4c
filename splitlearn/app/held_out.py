"""The held-out loss of a run, before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from splitlearn.data import BlockDataModule, base_tokenizer_digest
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import Evaluation, RunFigures, find_callback, saved_figures


def measure_before(
    figures: RunFigures,
    trainer: Trainer,
    module: SplitCausalLM,
    datamodule: LightningDataModule,
    checkpoint: Mapping[str, Any] | None,
) -> None:
    """Find the base model's held-out loss: in the checkpoint, if it was measured on the same rows, or by measuring it.

    Args:
        figures: where it is noted.
        trainer: the run's trainer.
        module: the module, before training.
        datamodule: the data, set up.
        checkpoint: the content of the checkpoint that the run goes on from; None for none.
    """
    figures.held_out = _identify_held_out(datamodule, trainer)
    figures.tokenizer = base_tokenizer_digest(module.hparams["model_name_or_path"], module.hparams["revision"])
    saved = {} if checkpoint is None else saved_figures(checkpoint)
    if saved.get("before") is not None and saved["held_out"] == figures.held_out:
        figures.before = saved["before"]
        return
    measured = trainer.validate(module, datamodule=datamodule, verbose=False)
    figures.before = dict(measured[0]) if measured else {}


def measure_after(trainer: Trainer, module: SplitCausalLM, datamodule: LightningDataModule) -> Mapping[str, float]:
    """Return the held-out loss after the last step, measured now unless the run has measured it there.

    Args:
        trainer: the run's trainer, after training.
        module: the trained module.
        datamodule: the data.
    """
    evaluation = find_callback(trainer, Evaluation)
    if evaluation is not None and evaluation.last_step == trainer.global_step and evaluation.last_figures:
        return evaluation.last_figures
    measured = trainer.validate(module, datamodule=datamodule, verbose=False)
    return measured[0] if measured else {}


def _identify_held_out(datamodule: LightningDataModule, trainer: Trainer) -> str | None:
    if not isinstance(datamodule, BlockDataModule) or "val" not in datamodule.blocks:
        return None
    return f"{datamodule.digest('val')}, limit_val_batches={trainer.limit_val_batches}"
