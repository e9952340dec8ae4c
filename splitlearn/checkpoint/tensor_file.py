"""Writing a safetensors file that others may read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from splitlearn.files import whole_file


def write_tensor_file(tensors: Mapping[str, torch.Tensor], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Args:
        tensors: by name.
        path: the file; its folder is made if need be.
        notes: further texts for the file's header.

    Raises:
        WriteError: the file cannot be written or the disk is full; an older file is left as it was.
    """
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with whole_file(path, num_bytes) as temporary:
        save_file(dict(tensors), temporary, {"format": "pt", **(notes or {})})
