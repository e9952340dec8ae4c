"""Parts on disk: one torch file for each part, complete without the checkpoint that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.torch_file import write_torch_file
from splitlearn.checkpoint.torch_reading import check_plain, read_torch_file

FORMAT = "splitlearn-part-1"
REMEDY = "save the part again"


def write_part_file(path: Path, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a part so that at every moment ``path`` holds either the old file or the whole new one.

    Args:
        path: the file, conventionally ``bottom.pt``, ``trunk.pt`` or ``top.pt``.
        description: plain values that describe the part.
        tensors: the part's parameters and buffers.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    write_torch_file(path, {"format": FORMAT, "description": dict(description), "tensors": dict(tensors)})


def read_part_file(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a part's description and its tensors, mapped from the file.

    Args:
        path: the file.

    Returns:
        The description and the tensors that were given to `write_part_file`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or not a part that this library wrote.
    """
    if not path.exists():
        raise FileNotFoundError(f"the part file {path} does not exist")
    content = read_torch_file(path, "part file", REMEDY)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a torch file but not a part that splitlearn saved")
    description, tensors = content.get("description"), content.get("tensors")
    if not isinstance(description, dict) or not isinstance(tensors, dict):
        raise CheckpointError(f"{path} does not say which part it is, or holds no tensors; {REMEDY}")
    return description, check_plain(tensors, str(path))
