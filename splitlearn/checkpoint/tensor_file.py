"""Writing a safetensors file that others may read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_tensor_file(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as a safetensors file with the permissions that the user's mask gives.

    Raises:
        OSError: the file cannot be written or the disk is full.
    """
    save_file(dict(tensors), path, {"format": "pt"})
    # safetensors makes files that only their owner reads, whatever the user's mask says.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
