"""The checkpoint that a run goes on from."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint import CheckpointError
from splitlearn.training.callbacks.last_checkpoint import LAST


def find_checkpoint(ckpt_path: str | None, run_folder: Path) -> str | None:
    """Return the path of the checkpoint to go on from; None for None.

    Args:
        ckpt_path: a file, or ``last`` or ``best`` of the run's own folder.
        run_folder: the run's folder.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is no checkpoint of a run.
    """
    if ckpt_path is None:
        return None
    path = Path(str(ckpt_path)).expanduser()
    folder = run_folder / "checkpoints"
    if ckpt_path in ("last", "best") and not path.is_file():
        path = folder / LAST if ckpt_path == "last" else _best(folder) or folder / "best"
        if not path.is_file():
            raise FileNotFoundError(
                f"ckpt_path is {ckpt_path}, but {folder} holds none; name the run's folder with hydra.run.dir=..."
            )
    if path.is_dir():
        raise FileNotFoundError(
            f"ckpt_path is {ckpt_path}, a folder; name a file in it, or take hydra.run.dir=... ckpt_path=last"
        )
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path is {ckpt_path}, which does not exist")
    _read(path)
    return str(path)


def _best(folder: Path) -> Path | None:
    """Return the best checkpoint as Lightning's `ModelCheckpoint` notes it in every checkpoint, at the place of now."""
    newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
    for state in (_read(newest).get("callbacks", {}) if newest else {}).values():
        if state.get("monitor") and state.get("best_model_path"):
            return folder / Path(state["best_model_path"]).name
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of a run") from error
    if not isinstance(found, dict) or "pytorch-lightning_version" not in found:
        raise CheckpointError(f"{path} is no checkpoint of a run; those are in the folder checkpoints of a run's own")
    return found
