"""A temporary folder for rows while a process uses them.

Nothing is looked up in it by name or time, so nothing stale can be found. It is removed when the process ends; what a killed
process left is removed by the next one that makes such a folder.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

from splitlearn.files import claim_folder, remove_leftovers


class ScratchFolder:
    """A temporary folder that is removed once nobody refers to this object, and at the latest when the process ends.

    Args:
        where: the folder to make it in, as for `new_folder`.

    Attributes:
        path: the folder.
    """

    def __init__(self, where: Path) -> None:
        self.path = new_folder(where)
        # Processes that prepare batches are copies of this one, and let go of their copy of this object when they end.
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __deepcopy__(self, memo: Any) -> ScratchFolder:
        """Return itself: a copy of a data set is mapped from the same files."""
        return self


def _remove(folder: Path, process_id: int) -> None:
    if os.getpid() == process_id:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(where: Path) -> Path:
    """Return a new, empty folder that lasts as long as this process.

    Args:
        where: the folder to make it in; where that cannot be written, it is made in the system's folder for temporary files.
    """
    folder = _process_folder(os.getpid(), where) / uuid.uuid4().hex
    folder.mkdir()
    return folder


def remove_abandoned(where: Path) -> None:
    """Remove what killed processes have left of the folders that `new_folder` made.

    Args:
        where: as for `new_folder`.
    """
    for parent in (where, Path(tempfile.gettempdir())):
        remove_leftovers(parent / _name())


def _name() -> str:
    return f"splitlearn-rows-{os.getuid()}"


@functools.cache
def _process_folder(process_id: int, where: Path) -> Path:
    """Return this process's folder, one for each process: a forked one makes its own."""
    try:
        parent = where / _name()
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    except OSError:
        parent = Path(tempfile.gettempdir()) / _name()
        parent.mkdir(mode=0o700, exist_ok=True)
    if parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{parent} belongs to another user; set TMPDIR to a folder of your own")
    return claim_folder(parent, "rows")
