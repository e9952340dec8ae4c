"""Writing torch files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import torch


def write_torch_file(path: Path, content: Any) -> None:
    """Write ``content`` with ``torch.save`` so that at every moment ``path`` holds either the old file or the whole new one.

    Args:
        path: the file; its folder is made if need be.
        content: plain values and tensors.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the file, since a rename within one file system is all or nothing.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
