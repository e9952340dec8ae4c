"""A temporary folder for rows while a process uses them.

Nothing is looked up in it by name or time, so nothing stale can be found. It is removed when the process ends; what a killed
process left is removed by the next one that makes such a folder.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
import uuid
from pathlib import Path

_LOCK = "in_use"
_open_locks: list[int] = []


def new_folder(where: Path) -> Path:
    """Return a new, empty folder that lasts as long as this process.

    Args:
        where: the folder to make it in; where that cannot be written, it is made in the system's folder for temporary files.
    """
    folder = _process_folder(os.getpid(), where) / uuid.uuid4().hex
    folder.mkdir()
    return folder


@functools.cache
def _process_folder(process_id: int, where: Path) -> Path:
    """Return this process's folder, with a locked file in it: the lock goes when the process does, however it ends."""
    name = f"splitlearn-rows-{os.getuid()}"
    try:
        parent = where / name
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    except OSError:
        parent = Path(tempfile.gettempdir()) / name
        parent.mkdir(mode=0o700, exist_ok=True)
    if parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{parent} belongs to another user; set TMPDIR to a folder of your own")
    _remove_abandoned(parent)
    # Locked before it has its name: another process could otherwise take it for abandoned.
    unnamed = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    lock = os.open(unnamed / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _open_locks.append(lock)
    folder = unnamed.rename(parent / f"{process_id}-{uuid.uuid4().hex}")
    atexit.register(_remove, folder, process_id)
    return folder


def _remove(folder: Path, process_id: int) -> None:
    # A forked process that runs its parent's exit functions must not take the folder away.
    if os.getpid() == process_id:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob("[0-9]*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # Another process is using it.
            continue
        finally:
            os.close(lock)
