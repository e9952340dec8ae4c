"""Lightning's checkpoints, written so that a crash never leaves half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from splitlearn.checkpoint import write_torch_file


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint's place, syncs and renames; Lightning's own passes through a temporary folder elsewhere."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the folder cannot be written or the disk is full; an older checkpoint is left as it was.
        """
        write_torch_file(Path(path), checkpoint)
