"""A run's folder: what a run leaves in it, and what of that belongs to an earlier run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from splitlearn.app.checkpoints import is_checkpoint
from splitlearn.app.sweeping import TRACEBACK_FILE
from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES
from splitlearn.data import PROMPT_FORMAT_FILE, TEMPLATE_FILE
from splitlearn.runs import (
    CONFIG_FILE,
    HYDRA_FOLDER,
    SUMMARY_FILE,
    checkpoint_starts,
    read_run_config,
    read_summary,
    refuse_other_run,
    write_hydra_files,
)

_ASIDE = "metrics_until_resume_"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", *(f"{name}.safetensors" for name in PART_NAMES))


def holds_run(folder: Path) -> bool:
    """Return whether a run has begun in a folder: it holds a configuration, checkpoints, parts or adapters."""
    patterns = (CONFIG_FILE, "checkpoints/*.ckpt", "parts/*.pt", "adapters/adapter_config.json")
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def foreign_file(folder: Path) -> Path | None:
    """Return a file of other origin in whose place a run would write; None if there is none."""
    for name, is_ours in ((CONFIG_FILE, _is_run_config), (SUMMARY_FILE, _is_summary)):
        if (folder / name).is_file() and not is_ours(folder):
            return folder / name
    return None


def refuse_second_run(folder: Path, ckpt_path: str | None, overwrite: bool, starts_if_empty: bool = False) -> None:
    """Refuse a run in a folder that holds one already, unless it goes on from it or is to take its place.

    Args:
        folder: the run's folder.
        ckpt_path: the checkpoint that the run goes on from.
        overwrite: whether the earlier run is to be removed.
        starts_if_empty: whether a run that has left nothing trained may be replaced, too.

    Raises:
        CheckpointError: the folder holds another run, or files of that name that no run has written.
    """
    foreign = foreign_file(folder)
    if foreign is not None:
        raise CheckpointError(f"{foreign} was not written by a run of splitlearn; name another folder")
    if not holds_run(folder):
        return
    if ckpt_path is not None:
        is_inside = folder.resolve() in Path(ckpt_path).resolve().parents
        if overwrite and is_inside:
            raise CheckpointError(f"overwrite is true, but ckpt_path={ckpt_path} is in the run that it would remove")
        if is_inside or overwrite:
            return
        raise CheckpointError(
            f"{folder} holds another run than ckpt_path={ckpt_path}; name another folder, or replace it with overwrite=true"
        )
    if not overwrite and not (starts_if_empty and _is_empty_handed(folder)):
        raise CheckpointError(
            f"{folder} holds a run already; go on with ckpt_path=last, replace it with overwrite=true, or name another folder"
        )


def earlier_starts(folder: Path, ckpt_path: str | None, checkpoint: Mapping[str, Any] | None, overwrite: bool) -> list[str]:
    """Return the ids of the starts of a run before the one that begins now, the first one first.

    Args:
        folder: the run's folder.
        ckpt_path: the checkpoint that the run goes on from; None for none.
        checkpoint: its content.
        overwrite: whether what the folder holds is to be removed.

    Raises:
        ValueError: the checkpoint lies in the folder, but is of another run than its record: one that was being replaced.
    """
    if ckpt_path is None or checkpoint is None:
        return []
    starts = checkpoint_starts(checkpoint)
    summary = None if overwrite or folder.resolve() not in Path(ckpt_path).resolve().parents else read_summary(folder)
    if summary is None:
        return starts
    refuse_other_run(folder, summary, checkpoint)
    return list(dict.fromkeys([*summary.starts, *starts]))


def _is_empty_handed(folder: Path) -> bool:
    """Return whether a run has left neither checkpoints nor a model."""
    summary = read_summary(folder)
    kept = [*folder.glob("checkpoints/*.ckpt"), *folder.glob("parts/*.pt"), *folder.glob("adapters/*.safetensors")]
    return not kept and not (summary is not None and summary.is_completed)


def own_files(folder: Path) -> list[Path]:
    """Return the files that runs have left in a folder; files of other origin are not among them."""
    checkpoints = [path for path in folder.glob("checkpoints/*.ckpt") if is_checkpoint(path)]
    named = [SUMMARY_FILE, CONFIG_FILE, TEMPLATE_FILE, PROMPT_FORMAT_FILE, TRACEBACK_FILE, "memory_report.json"]
    if not HydraConfig.initialized() or HydraConfig.get().output_subdir is None:
        named += [f"{HYDRA_FOLDER}/{name}.yaml" for name in ("config", "hydra", "overrides")]
    named += [f"parts/{name}.pt" for name in PART_NAMES] + [f"adapters/{name}" for name in _ADAPTER_FILES]
    events = folder.glob("tensorboard/**/events.out.tfevents.*")
    aside = [path for folder_aside in folder.glob(f"{_ASIDE}*") for path in folder_aside.glob("*") if path.is_file()]
    return [*checkpoints, *(folder / name for name in named if (folder / name).is_file()), *events, *aside]


def abandoned_searches(folder: Path) -> list[Path]:
    """Return the checkpoints that Lightning writes while it searches for a learning rate or batch size, and then removes.

    The run holds the lock on its folder, so the processes that left them there are gone.
    """
    return [path for pattern in (".lr_find_*.ckpt", ".scale_batch_size_*.ckpt") for path in folder.glob(pattern)]


def remove(files: list[Path]) -> None:
    """Remove files, and the folders that are empty without them."""
    for path in files:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        if folder.name in ("checkpoints", "parts", "adapters") or folder.name.startswith(_ASIDE):
            _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def keeping_metrics(folder: Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Put what an earlier run in the same folder logged aside, and back if this one does not begin.

    Lightning's logger deletes it as soon as anything is run.
    """
    metrics, aside = folder / "metrics", None
    if metrics.is_dir():
        aside = folder / f"{_ASIDE}{1 + sum(1 for _ in folder.glob(f'{_ASIDE}*'))}"
        metrics.rename(aside)
    try:
        yield
    finally:
        if aside is not None and not has_begun():
            shutil.rmtree(metrics, ignore_errors=True)
            aside.rename(metrics)


def save_hydra_files(folder: Path, cfg: DictConfig) -> None:
    """Write to ``.hydra`` what Hydra itself writes before the job, and so over an earlier run's files.

    Args:
        folder: the run's folder.
        cfg: the run's configuration.
    """
    if not HydraConfig.initialized():
        return
    hydra: Any = HydraConfig.get()
    if hydra.output_subdir is not None or Path(hydra.runtime.output_dir).resolve() != folder.resolve():
        return
    write_hydra_files(folder, cfg, hydra)


def _is_run_config(folder: Path) -> bool:
    try:
        config = read_run_config(folder)
    except ValueError:
        return False
    return all(name in config for name in ("model", "split", "trainer", "run_folder"))


def _is_summary(folder: Path) -> bool:
    try:
        summary = read_summary(folder)
    except ValueError:
        return False
    return summary is not None and summary.status is not None
