"""The checkpoint that a run goes on from, and the best of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from splitlearn.checkpoint import CheckpointError, read_torch_file
from splitlearn.naming import naming_group
from splitlearn.runs import RUNNING, RunSummary
from splitlearn.training import SplitCausalLM, check_layout, check_progress, check_schema, is_of_this_library
from splitlearn.training.callbacks import LAST, check_data_order


class FinishedRunError(ValueError):
    """A run was to go on that is done already."""


def find_checkpoint(ckpt_path: str | None, run_folder: Path, setting: str = "ckpt_path") -> str | None:
    """Return the path of the checkpoint to go on from; None for None.

    Args:
        ckpt_path: a file; ``last`` or ``best`` of the run's own folder; or ``auto`` for the last if there is one.
        run_folder: the run's folder.
        setting: the name of the setting, for messages.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is no checkpoint of a run.
    """
    if ckpt_path is None:
        return None
    path = Path(str(ckpt_path)).expanduser()
    folder = run_folder / "checkpoints"
    if ckpt_path in ("last", "best", "auto") and not path.is_file():
        path = (_best(folder) if ckpt_path == "best" else _last(folder)) or folder / LAST
        if not path.is_file():
            if ckpt_path == "auto":
                return None
            where = "name the run's folder with hydra.run.dir=..." if setting == "ckpt_path" else "name another run"
            raise FileNotFoundError(f"{setting} is {ckpt_path}, but {folder} holds none; {where}")
    if path.is_dir():
        raise FileNotFoundError(
            f"{setting} is {ckpt_path}, a folder; name a file in it, or take hydra.run.dir=... ckpt_path=last"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{setting} is {ckpt_path}, which does not exist")
    read_checkpoint(path)
    return str(path)


def _newest(folder: Path) -> Path | None:
    """Return the checkpoint after the most steps. The times of files in a copied folder are those of the copying."""
    checkpoints = sorted(folder.glob("*.ckpt"))
    if len(checkpoints) < 2:
        return checkpoints[0] if checkpoints else None
    # Of those after one step, the last may have been written before the validation that the best was written after.
    return max(checkpoints, key=lambda path: (read_checkpoint(path)["global_step"], path.name != LAST))


def _last(folder: Path) -> Path | None:
    # A run that was killed in its first epoch may have written none but the best.
    return folder / LAST if (folder / LAST).is_file() else _newest(folder)


def _best(folder: Path) -> Path | None:
    """Return the best checkpoint as Lightning's `ModelCheckpoint` notes it in every checkpoint, at the place of now."""
    newest = _newest(folder)
    for state in (read_checkpoint(newest).get("callbacks", {}) if newest else {}).values():
        if state.get("monitor") and state.get("best_model_path"):
            return folder / Path(state["best_model_path"]).name
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a run's checkpoint, its tensors mapped from the file.

    Raises:
        CheckpointError: it is damaged, or something else, or has the layout of another release.
    """
    content = _read(path)
    check_layout(content, str(path))
    check_schema(content, str(path))
    return content


def _read(path: str | Path) -> dict[str, Any]:
    content = read_torch_file(Path(path), "checkpoint of a run", "go on from another one")
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a run; those are in the folder checkpoints of a run's own")
    return content


def is_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint that a run of this library wrote, whatever its layout."""
    try:
        return is_of_this_library(_read(path))
    except CheckpointError:
        return False


def check_fit_of(
    checkpoint: dict[str, Any], path: str, module: SplitCausalLM, datamodule: LightningDataModule, trainer: Trainer
) -> None:
    """Load the parts, and refuse a checkpoint that the run cannot go on from, before anything of an earlier run is touched.

    Args:
        checkpoint: its content.
        path: its file.
        module: the run's module.
        datamodule: the run's data.
        trainer: the run's trainer.

    Raises:
        CheckpointError: it is of another cut, model or choice of what is trained.
        ValueError: it was written in the middle of an epoch of other data.
    """
    check_progress(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), path)
    try:
        # A copy, since the module gives the tensors other names for Lightning.
        module.on_load_checkpoint(dict(checkpoint))
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be gone on from: {error}") from error
    with naming_group("data"):
        check_data_order(checkpoint, datamodule)


def find_best(trainer: Trainer) -> dict[str, Any] | None:
    """Return the best figure of a run, its step and epoch as in ``metrics.csv``, and its file; None if none was kept."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and Path(callback.best_model_path or "").is_file():
            content = read_checkpoint(callback.best_model_path)
            score = float(callback.best_model_score) if callback.best_model_score is not None else math.nan
            place = {"step": content["global_step"], "epoch": content["epoch"]}
            return {callback.monitor: score, **place, "file": callback.best_model_path}
    return None


def refuse_finished(checkpoint: Mapping[str, Any], path: str, cfg: DictConfig, summary: RunSummary | None) -> None:
    """Refuse to go on from a checkpoint after which nothing is left to be done.

    A run that took its last step, but was stopped before it had saved its parts, has these left.

    Args:
        checkpoint: its content.
        path: its file.
        cfg: the run's configuration.
        summary: the run's record; None if there is none.

    Raises:
        FinishedRunError: the run has all its steps or epochs, or has stopped early.
    """
    step, epochs = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    max_steps, max_epochs = cfg.trainer.get("max_steps", -1), cfg.trainer.get("max_epochs")
    reason = None
    has_parts_left = summary is not None and summary.status in (RUNNING, "interrupted", "failed")
    if isinstance(max_steps, int) and 0 <= max_steps <= step:
        reason = f"it has taken {step} steps of trainer.max_steps={max_steps}"
    elif isinstance(max_epochs, int) and 0 <= max_epochs <= epochs:
        reason = f"it has trained for {epochs} epochs of trainer.max_epochs={max_epochs}"
    if reason is not None and has_parts_left:
        return
    if reason is None and (stopping := (cfg.get("callbacks") or {}).get("early_stopping")) is not None:
        states = [state for name, state in checkpoint.get("callbacks", {}).items() if name.startswith("EarlyStopping")]
        if any(state["wait_count"] >= max(stopping.patience, 1) for state in states):
            reason = "it has stopped early"
    if reason is not None:
        raise FinishedRunError(f"the run of {path} is finished: {reason}; nothing was changed")
