"""Writing files and folders that are there whole or not at all.

Content is written under a temporary name beside its place, synced to the disk, and renamed: a rename within one file system
is all or nothing. The containing folder is synced after it, since the new name is an entry in it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file so that at every moment ``path`` holds either the old content or all of the new.

    The file has the permissions that the user's mask gives, whatever the code that fills it asks for.

    Args:
        path: the file; its folder is made if need be.

    Yields:
        The path of an empty file to fill. It becomes ``path`` when the block ends, and is removed if the block raises.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        temporary.touch(mode=0o666, exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors puts a file of its own here, which only its owner may read.
        temporary.chmod(mode & 0o7777)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, exist_ok: bool = False) -> Iterator[Path]:
    """Write a folder so that it appears with all of its files.

    Args:
        path: the folder; the folders above it are made if need be.
        exist_ok: whether the folder may be there already. Once all new files are written, they are then renamed into it one by
            one; its other files stay.

    Yields:
        The path of an empty folder to fill. It becomes ``path`` when the block ends, and is removed if the block raises.

    Raises:
        FileExistsError: ``path`` is there when the block ends, and must not be.
        OSError: the folder cannot be written or the disk is full; what was there is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        temporary.mkdir()
        yield temporary
        _sync_content(temporary)
        if exist_ok and path.is_dir():
            for entry in sorted(temporary.iterdir()):
                entry.replace(path / entry.name)
            temporary.rmdir()
            _sync(path)
        else:
            _rename_folder(temporary, path)
            _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all.

    Returns:
        The file's path.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file in UTF-8, whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        content: plain values. Numbers that JSON cannot hold (infinite, not a number) are written as null.

    Returns:
        The file's path.

    Raises:
        TypeError: a value is not a plain one.
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with whole_file(path) as temporary:
        # Python decodes bytes of file names that are no UTF-8 to lone surrogates. These are written as JSON's own escapes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _beside(path: Path) -> Path:
    """Return a name beside ``path`` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _rename_folder(folder: Path, path: Path) -> None:
    # The system would put a folder in the place of an empty one.
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        folder.rename(path)
    except OSError as error:
        # Another process made it meanwhile; the system reports it in several ways.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _sync_content(folder: Path) -> None:
    """Sync all files and folders within a folder, and the folder itself."""
    for entry in folder.rglob("*"):
        if not entry.is_symlink():
            _sync(entry)
    _sync(folder)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
