"""Where tables are printed."""

from __future__ import annotations

import os

from rich.console import Console

# Wide enough for every table of this package.
_FILE_COLUMNS = 132


def make_console() -> Console:
    """Return a console for standard output: as wide as the terminal, or in a file wide enough for tables to be read."""
    console = Console()
    if console.is_terminal or console.is_jupyter or "COLUMNS" in os.environ:
        return console
    return Console(width=_FILE_COLUMNS)
