"""The folder that a run writes."""

from __future__ import annotations

import tempfile
from pathlib import Path


def open_run_folder(folder: str | Path) -> Path:
    """Make a run's folder, unless it is there, and see that it can be written.

    Returns:
        The folder.

    Raises:
        ValueError: it cannot be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"the run's folder {path} cannot be written ({reason}); choose another with hydra.run.dir=..."
        ) from error
