"""Temporary files of processes that prepare batches.

They hand tensors on through sockets, for which multiprocessing makes a temporary folder in each process. A process that is
ended by SIGTERM, as those of a run that is stopped are, does not remove its own. So they all use the one of the run's process.
"""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing import resource_sharer, util
from pathlib import Path


class _Folder:
    """The temporary folder of a process for those that it starts.

    Attributes:
        path: the folder.
        process: the number of the process that removes it.
    """

    def __init__(self) -> None:
        self.path = Path(util.get_temp_dir())
        self.process = os.getpid()
        # Called in each process that multiprocessing forks from now on.
        util.register_after_fork(self, _Folder._remove_after_parent)

    def _remove_after_parent(self) -> None:
        util.Finalize(None, self._remove_as_orphan, exitpriority=-100)

    def _remove_as_orphan(self) -> None:
        if os.getppid() != self.process:
            # A batch that was still handed on may have opened the socket after multiprocessing had removed them.
            with suppress(OSError):
                resource_sharer.stop(timeout=1.0)
            # The last process to notice the end of a killed run finds the folder empty.
            with suppress(OSError):
                self.path.rmdir()


_folders: dict[int, _Folder] = {}


def share_temporary_folder() -> None:
    """Have processes that this one starts use its temporary folder, which goes with it, or with them if it is killed."""
    if os.getpid() not in _folders:
        _folders[os.getpid()] = _Folder()
