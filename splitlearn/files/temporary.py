"""Hidden folders for work under way, which others can tell from those of dead processes.

Each is called ``.NAME.HOST-ID.tmp`` and holds a locked file. The system lets go of the lock when the process ends, however it
ends. So whoever comes by later can remove the folders of dead processes, and never takes one from a living process. HOST stands
for the machine: a network file system may not show locks of other machines, so their folders are left alone.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import platform
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

LOCK_FILE = "in_use"
_HOST = hashlib.sha256(platform.node().encode(errors="replace")).hexdigest()[:8]
_OWN_NAME = re.compile(rf"\..*\.{_HOST}-[0-9a-f]{{32}}\.tmp", re.DOTALL)
# File systems allow 255 bytes, of which the rest of the name takes 47.
_LONGEST_NAME = 200
# The locks that this process holds, by folder.
_held: dict[Path, int] = {}


def claim_folder(parent: Path, name: str) -> Path:
    """Make a hidden folder for work under way, and remove those that dead processes have left beside it.

    Args:
        parent: an existing folder.
        name: what is being made, for whoever finds the folder.

    Returns:
        The folder, empty but for its lock. It stays until `release_folder` or the end of the process.

    Raises:
        OSError: ``parent`` cannot be written.
    """
    remove_leftovers(parent)
    short = os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])
    while True:
        folder = parent / f".{short}.{_HOST}-{uuid.uuid4().hex}.tmp"
        folder.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o666)
            _held[folder] = lock
            # Where a file system has no locks nobody else can lock the file either, and so nobody removes the folder.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return folder
            os.close(_held.pop(folder))
        # Another process came by before the file was locked, and took the folder for a dead one's.


def release_folder(folder: Path) -> None:
    """Remove a folder of this process with all that is in it; in a forked process, leave it to the one that made it."""
    if folder in _held:
        _remove(folder)
        os.close(_held.pop(folder))


@atexit.register
def release_all_folders() -> None:
    """Remove all folders of this process, which is about to end."""
    for folder in list(_held):
        release_folder(folder)


def _forget_all() -> None:
    """Let go of the locks in a forked process, which are its parent's.

    Processes that prepare batches outlive a killed run by some seconds. With its locks its folders would seem to be in use.
    """
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_forget_all)


def remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders within a folder whose processes have ended on this machine; the others stay."""
    try:
        with os.scandir(parent) as entries:
            folders = [
                Path(entry.path) for entry in entries if _OWN_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return
    for folder in folders:
        if folder not in _held:
            _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Its process ended, or is about to lock it and will make another one. With anything in it, it is none of these.
        with suppress(OSError):
            folder.rmdir()
        return
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    except OSError:
        # A living process has it, or the file system has no locks.
        return
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock's file last: if this is killed half-way, the rest is still told from that of other origin."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != LOCK_FILE:
                Path(entry.path).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
