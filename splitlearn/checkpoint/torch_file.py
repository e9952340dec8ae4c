"""Writing torch files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splitlearn.files import whole_file


def write_torch_file(path: Path, content: Any) -> None:
    """Write ``content`` with ``torch.save`` so that at every moment ``path`` holds either the old file or the whole new one.

    Args:
        path: the file; its folder is made if need be.
        content: plain values and tensors.

    Raises:
        WriteError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    num_bytes = sum(_storages(content).values())
    # Given a path instead of a file, torch would store the temporary name inside, and no two files would be alike.
    with whole_file(path, num_bytes) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def _storages(content: Any) -> dict[int, int]:
    """Return the bytes of each storage that tensors in a nest of plain values have, by its address: torch writes it once."""
    if isinstance(content, torch.Tensor):
        if content.layout is not torch.strided or content.device.type == "meta":
            return {}
        storage = content.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    values: Any = ()
    if isinstance(content, Mapping):
        values = content.values()
    elif isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        values = content
    return {address: size for value in values for address, size in _storages(value).items()}
