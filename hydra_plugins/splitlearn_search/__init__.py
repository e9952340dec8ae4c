"""A sweeper for Hydra: a search by Optuna. Hydra takes plug-ins from the package hydra_plugins alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Lets Optuna choose the settings of each run by the figures of those before; see `splitlearn.cli.sweeps.searching`.

    Args:
        n_trials: how many runs the search has in all, those of other processes and earlier starts included.
        objectives: columns of a report, and whether each is to be made small or large: ``"minimize"`` or ``"maximize"``.
        sampler: how settings are chosen: ``"tpe"``, ``"nsga2"`` or ``"random"``.
        storage: where trials are kept: None for a file in the sweep's folder, or the URL of a database.
        params: what varies, by the setting's name, as on the command line, which comes before it.
    """

    def __init__(
        self,
        n_trials: int,
        objectives: Mapping[str, str],
        sampler: str = "tpe",
        storage: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = {
            "n_trials": n_trials,
            "objectives": dict(objectives),
            "sampler_name": sampler,
            "storage": storage,
        }
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take from Hydra what runs are begun with."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search.

        Args:
            arguments: the overrides of the command line.
        """
        # Hydra imports its plug-ins at every start.
        from splitlearn.cli.errors import refuse

        try:
            from splitlearn.cli.sweeps.searching import search
        except ModuleNotFoundError as error:
            refuse(f"hydra/sweeper=search needs {error.name}; pip install 'splitlearn[sweep]'")
        typed = [*(f"{name}={value}" for name, value in self.params.items()), *arguments]
        search(self.config, self.hydra_context.config_loader, self.launcher, typed, **self.settings)
