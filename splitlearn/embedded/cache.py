"""A folder for things that are made once and used by every later run."""

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
    """Return the cached folder ``name``, making it first if it is not there.

    It is made beside its place and renamed into it, so an interrupted run leaves nothing half-made, and of two processes that
    make it at once the first one's stays.

    Args:
        name: the folder's name in the cache; it must change when its content would.
        build: fills the empty folder it is given.
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
