"""One run at a time in a folder: a lock that the system lets go of when its process ends, however that ends."""

from __future__ import annotations

import errno
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from splitlearn.files import write_json
from splitlearn.json_text import read_json_object

LOCK_FILE = ".run.lock"
# Apart from the lock's own file, which some releases of filelock empty when they try to take the lock.
HOLDER_FILE = ".run.json"
# How long to wait for a lock whose holder is gone or not named yet. Worker processes of a killed run keep its lock until they
# notice, within five seconds.
_PATIENCE_S = 10.0
_PAUSE_S = 0.1
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class HeldFolderError(ValueError):
    """Another process runs in the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that runs in a folder.

    Attributes:
        process: its number.
        host: the name of its machine.
        started_s: when it began, in seconds since 1970: another process may get the same number later.
    """

    process: int
    host: str
    started_s: float

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        process = psutil.Process()
        return cls(process.pid, socket.gethostname(), process.create_time())

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; of other machines nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.process)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started_s) > 1.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for this run alone while the block lasts.

    The lock is one of the system's, so a run that is killed leaves none. On a file system without locks there is a warning,
    and nothing is kept.

    Args:
        folder: an existing folder that can be written.

    Raises:
        HeldFolderError: another run is in the folder; the message names its process.
        ValueError: the folder cannot be locked.
    """
    lock = None
    try:
        # Some releases of filelock set permissions of their own, whatever the user's mask.
        with suppress(FileExistsError):
            (folder / LOCK_FILE).touch(mode=0o666, exist_ok=False)
        lock = FileLock(folder / LOCK_FILE, mode=(folder / LOCK_FILE).stat().st_mode & 0o777)
        _acquire(lock, folder)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise ValueError(
                f"the run's folder {folder} cannot be locked ({error.strerror or error}); choose another with hydra.run.dir=..."
            ) from error
        warnings.warn(
            f"the file system of {folder} has no locks, so a second run in this folder would not be noticed",
            stacklevel=3,
        )
    try:
        write_json(folder / HOLDER_FILE, asdict(Holder.here()))
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER_FILE).unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def find_holder(folder: Path) -> Holder | None:
    """Return the process that runs in a folder; None if there is none, as far as can be seen from this machine."""
    try:
        values = read_json_object(folder / HOLDER_FILE)
        holder = Holder(int(values["process"]), str(values["host"]), float(values["started_s"]))
        return None if holder.is_gone else holder
    except (OSError, ValueError, TypeError, KeyError, OverflowError, psutil.Error):
        # The file is damaged, or speaks of a process that this user may not look at.
        return None


def _acquire(lock: FileLock, folder: Path) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            holder = find_holder(folder)
        if holder is not None or time.monotonic() > until_s:
            name = "another process" if holder is None else str(holder)
            raise HeldFolderError(
                f"{folder} is in use by another run, {name}; wait for its end, or name another folder with hydra.run.dir=..."
            )
        time.sleep(_PAUSE_S)
