"""One command: its arguments are read and checked before the libraries that do the work are imported."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log

from splitlearn.cli.arguments import prepare
from splitlearn.cli.errors import one_sentence, refuse
from splitlearn.cli.sweeps.outcomes import FAILED_RUNS
from splitlearn.settings import SettingError, conf_folder

# What processes of a sweep run, by the command's name.
TASKS: dict[str, Callable[[Any], Any]] = {}


def command(name: str, imports: str = "splitlearn.app") -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a function of a configuration the command ``name``, which reads ``sys.argv``.

    The function imports what it needs itself: torch and transformers take seconds, and whoever misspells a setting, asks for
    help or completes a word should not wait for them.

    Args:
        name: of the command.
        imports: the package that does its work.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        run_task = one_sentence(task)

        @functools.wraps(task)
        def import_and_run(cfg: Any) -> Any:
            import_module(imports)
            # Lightning sets its logger up when it is imported; what the configuration says of it comes after.
            configured: Any = HydraConfig.get()
            configure_log(configured.job_logging, configured.verbose)
            return run_task(cfg)

        TASKS[name] = import_and_run
        run = hydra.main(config_path=str(conf_folder()), config_name=name, version_base="1.3")(import_and_run)

        @functools.wraps(task)
        def main() -> None:
            try:
                sys.argv = [sys.argv[0], *prepare(name, sys.argv[1:])]
            except SettingError as error:
                if os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                refuse(str(error))
            run()
            if FAILED_RUNS:
                raise SystemExit(1)

        return main

    return decorate
