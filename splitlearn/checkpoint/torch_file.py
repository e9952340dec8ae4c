"""Writing torch files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

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
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    # Given a path instead of a file, torch would store the temporary name inside, and no two files would be alike.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
