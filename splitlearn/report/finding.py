"""Where runs are below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from splitlearn.runs import CONFIG_FILE, SUMMARY_FILE

# outputs/DATE/TIME and multirun/DATE/TIME/RUN, with room for a folder of such folders.
_MAX_DEPTH = 6
_OF_A_RUN = {CONFIG_FILE, ".hydra"}


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs at or below a folder, in the order of their names; links are not followed.

    A folder with a ``summary.json`` is a run's. One that has only a configuration is yielded too, unless there are runs below
    it: its run ended, or was killed, before it wrote a record.

    Raises:
        FileNotFoundError: ``folder`` is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name the folder of a sweep or of a run, such as multirun/DATE/TIME")
    yield from _below(str(folder), 0)


def _below(folder: str, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            by_name = {entry.name: entry for entry in entries}
    except OSError:
        # A folder that may not be read is named where its record is read.
        yield Path(folder)
        return
    if SUMMARY_FILE in by_name:
        yield Path(folder)
        return
    has_runs = False
    if depth < _MAX_DEPTH:
        for name in sorted(by_name):
            if not name.startswith(".") and by_name[name].is_dir(follow_symlinks=False):
                for run in _below(by_name[name].path, depth + 1):
                    has_runs = True
                    yield run
    if not has_runs and _OF_A_RUN & by_name.keys():
        yield Path(folder)
