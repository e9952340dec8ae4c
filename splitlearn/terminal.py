"""The terminal: where tables are printed, and what becomes of output when it is gone."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough for every table of this package.
_FILE_COLUMNS = 132


def make_console() -> Console:
    """Return a console for standard output: as wide as the terminal, or in a file wide enough for tables to be read."""
    # Only here: signals are handled before it is imported.
    from rich.console import Console

    console = Console()
    if console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ:
        return console
    return Console(width=_FILE_COLUMNS)


def leave_terminal() -> None:
    """Have standard streams that belong to a terminal lead nowhere: after SIGHUP it is gone, and writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with suppress(OSError):
            # isatty() no longer says so of a terminal that is gone.
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)
