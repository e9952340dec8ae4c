"""A folder for models and data that are made once and used by every later run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from splitlearn.files import WriteError, whole_folder


def cache_folder() -> Path:
    """Return the cache: ``$SPLITLEARN_CACHE``, else ``splitlearn`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        FileNotFoundError: none is named, and the user has no home folder.
    """
    chosen = os.environ.get("SPLITLEARN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splitlearn"
    except RuntimeError as error:
        # No HOME, and no entry of the user in the system's list.
        raise FileNotFoundError("this user has no home folder for the cache; name a folder with SPLITLEARN_CACHE") from error


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return a cached folder, and make it first if it does not exist.

    It is made beside its place and renamed into it, so an interrupted run leaves nothing half-made. If two processes make it at
    once, the one that finishes first wins.

    Args:
        name: the folder's name in the cache, which must change when its content would.
        build: fills the empty folder it is given.

    Raises:
        FileNotFoundError: no cache is named, and the user has no home folder.
        WriteError: the cache cannot be written.
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
    except WriteError as error:
        raise WriteError(f"{error}; SPLITLEARN_CACHE names another folder for the cache") from error
    return folder
