"""Temporary files of processes that prepare batches.

They hand tensors on through sockets, for which multiprocessing makes a temporary folder in each process. A process that is
ended by SIGTERM, as those of a run that is stopped are, does not remove its own. So the run's process chooses how the folders
are called, and removes what is left of them when it ends. If it is killed, each process removes its own, as ever.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from multiprocessing import current_process, util
from pathlib import Path

# multiprocessing removes its own temporary folders last, too.
_LAST = -100


class _Folders:
    """The temporary folders of the processes that this one forks."""

    def __init__(self) -> None:
        self._where = tempfile.gettempdir()
        # Paths of sockets are limited to about a hundred letters.
        self._prefix = f"pymp-{uuid.uuid4().hex[:6]}-"
        util.register_after_fork(self, _Folders._make)
        util.Finalize(None, self._remove_all, exitpriority=_LAST)

    def _make(self) -> None:
        """Make the folder of a forked process, in that process."""
        path = tempfile.mkdtemp(prefix=self._prefix, dir=self._where)
        current_process()._config["tempdir"] = path  # type: ignore[attr-defined]
        util.Finalize(None, shutil.rmtree, args=(path,), kwargs={"ignore_errors": True}, exitpriority=_LAST)

    def _remove_all(self) -> None:
        for path in Path(self._where).glob(f"{self._prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


_folders: dict[int, _Folders] = {}


def name_temporary_folders() -> None:
    """Have the temporary folders of processes that this one forks from now on removed when it ends."""
    if os.getpid() not in _folders:
        _folders[os.getpid()] = _Folders()
