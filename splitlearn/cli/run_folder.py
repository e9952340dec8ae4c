"""Whether a run's folder can be written, found out before Hydra or the run does anything there."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback

from splitlearn.cli.errors import refuse
from splitlearn.runs import open_run_folder


class OpenRunFolder(Callback):
    """Refuses with one sentence a folder that cannot be written; Hydra would answer with a traceback."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Make the folder of a single run.

        Raises:
            SystemExit: it cannot be written.
        """
        _open(config.hydra.run.dir)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Make the folder of a sweep.

        Raises:
            SystemExit: it cannot be written.
        """
        _open(config.hydra.sweep.dir)


def _open(folder: str) -> None:
    try:
        open_run_folder(folder)
    except ValueError as error:
        refuse(str(error))
