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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitlearn.files.system_errors import system_error_of
from splitlearn.files.temporary import LOCK_FILE, claim_folder, release_folder

# What the system says of files that cannot grow or be made, whoever asks it to.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)


class WriteError(OSError):
    """A file or folder cannot be written; the message is a sentence that names it and says why."""


@contextmanager
def whole_file(path: Path, num_bytes: int | None = None) -> Iterator[Path]:
    """Write a file so that at every moment ``path`` holds either the old content or all of the new.

    The file has the permissions that the user's mask gives, whatever the code that fills it asks for.

    Args:
        path: the file; its folder is made if need be.
        num_bytes: how large it will be at least, where that is known: it is then refused before anything is written.

    Yields:
        The path of an empty file to fill. It becomes ``path`` when the block ends, and is removed if the block raises.

    Raises:
        WriteError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    with explain_full_disk(path, num_bytes):
        check_room(path, num_bytes or 0)
        with _temporary_beside(path) as temporary:
            temporary.touch(mode=0o666, exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            # safetensors puts a file of its own here, which only its owner may read.
            temporary.chmod(mode & 0o7777)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def whole_folder(path: Path, exist_ok: bool = False, num_bytes: int | None = None, private: bool = False) -> Iterator[Path]:
    """Write a folder so that it appears with all of its files, which have the permissions that the user's mask gives.

    Args:
        path: the folder; the folders above it are made if need be.
        exist_ok: whether the folder may be there already. Once all new files are written, they are then renamed into it one by
            one; its other files stay.
        num_bytes: how much its files will hold at least, where that is known: it is then refused before anything is written.
        private: whether only its owner may read it and its files, whatever the user's mask says.

    Yields:
        The path of an empty folder to fill. It becomes ``path`` when the block ends, and is removed if the block raises.

    Raises:
        FileExistsError: ``path`` is there when the block ends, and must not be.
        WriteError: the folder cannot be written or the disk is full; what was there is left as it was.
    """
    with explain_full_disk(path, num_bytes):
        check_room(path, num_bytes or 0, in_one_file=False)
        with _temporary_beside(path) as temporary:
            temporary.mkdir(mode=0o700 if private else 0o777)
            yield temporary
            _set_modes(temporary, 0o600 if private else (temporary.parent / LOCK_FILE).stat().st_mode & 0o777)
            _sync_content(temporary)
            if exist_ok and path.is_dir():
                for entry in sorted(temporary.iterdir()):
                    entry.replace(path / entry.name)
                _sync(path)
            else:
                _rename_folder(temporary, path)
                _sync(path.parent)


def check_room(path: Path, num_bytes: int, in_one_file: bool = True) -> None:
    """Refuse what the disk has no room for, or the process's limit on the size of files.

    Args:
        path: the file or folder to write.
        num_bytes: how much will be written.
        in_one_file: whether it is written to one file.

    Raises:
        WriteError: there is no room.
    """
    # Not on Windows.
    import resource

    if num_bytes <= 0:
        return
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if in_one_file and 0 <= limit < num_bytes:
        raise write_error(path, errno.EFBIG, num_bytes)
    disk = shutil.disk_usage(_existing(path))
    # Some network file systems tell nothing.
    if disk.total > 0 and disk.free < num_bytes:
        raise write_error(path, errno.ENOSPC, num_bytes)


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made; for one that is not there, the folder above it counts.

    Raises:
        WriteError: none can be made.
    """
    try:
        tempfile.TemporaryFile(dir=_existing(folder / "file")).close()
    except OSError as error:
        if error.errno is None:
            raise
        raise write_error(folder, error.errno) from error


def write_error(path: Path, number: int, num_bytes: int | None = None) -> WriteError:
    """Return the error for a file or folder that cannot be written.

    Args:
        path: the file or folder.
        number: the system's error, as in `errno`.
        num_bytes: how much was to be written, where that is known.
    """
    need = f"; {_in_mib(num_bytes)} are needed" if num_bytes else ""
    if need and number == errno.ENOSPC:
        need += f" and {_in_mib(shutil.disk_usage(_existing(path)).free)} are free"
    error = WriteError(f"{path} cannot be written ({os.strerror(number)}){need}")
    error.errno = number
    return error


def _in_mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.2f} MiB"


def _existing(path: Path) -> Path:
    """Return the lowest folder above a path that is there."""
    return next(above for above in path.absolute().parents if above.is_dir())


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


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder beside ``path`` that is removed in the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = claim_folder(path.parent, path.name)
    except OSError as error:
        if error.errno in (*_NO_ROOM, *_NOT_ALLOWED):
            raise write_error(path, error.errno) from error
        raise
    try:
        yield folder / path.name
    finally:
        release_folder(folder)


@contextmanager
def explain_full_disk(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Raise errors of a disk or file that cannot take more as a sentence.

    Args:
        path: the file or folder that the block writes.
        num_bytes: how large it will be at least, where that is known.

    Raises:
        WriteError: the disk is full or read-only, or the file may not grow; the message has the path and the bytes needed.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = system_error_of(error)
        if number not in _NO_ROOM:
            raise
        raise write_error(path, number, num_bytes) from error


def _set_modes(folder: Path, file_mode: int) -> None:
    """Give all that is in a folder the permissions of a new file or folder.

    safetensors makes files that only their owner may read, and copies have the permissions of what was copied.
    """
    for entry in folder.rglob("*"):
        if not entry.is_symlink():
            entry.chmod(folder.stat().st_mode & 0o7777 if entry.is_dir() else file_mode)


def _rename_folder(folder: Path, path: Path) -> None:
    # The system would put a folder in the place of an empty one.
    refusal = FileExistsError(f"{path} exists already: another process has made it meanwhile; name another folder")
    if path.exists():
        raise refusal
    try:
        folder.rename(path)
    except OSError as error:
        # Another process made it meanwhile; the system reports it in several ways.
        if path.exists():
            raise refusal from error
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
