"""A folder for models and data that are made once and used by every later run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from splitlearn.files import whole_folder


def cache_folder() -> Path:
    """Return the cache: ``$SPLITLEARN_CACHE``, else ``splitlearn`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("SPLITLEARN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splitlearn"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return a cached folder, and make it first if it does not exist.

    It is made beside its place and renamed into it, so an interrupted run leaves nothing half-made. If two processes make it at
    once, the one that finishes first wins.

    Args:
        name: the folder's name in the cache, which must change when its content would.
        build: fills the empty folder it is given.

    Raises:
        OSError: the cache cannot be written, or the disk is full.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    try:
        with whole_folder(folder) as temporary:
            build(temporary)
    except FileExistsError:
        if not folder.is_dir():
            raise
    return folder
