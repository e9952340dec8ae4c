"""A launcher for Hydra: one process for each job of a sweep. Hydra takes plug-ins from the package hydra_plugins alone."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Runs each job of a sweep in a process of its own; see `splitlearn.cli.sweeps`.

    Args:
        n_jobs: how many run at a time.
    """

    def __init__(self, n_jobs: int = 1) -> None:
        self.n_jobs = n_jobs
        # How many runs the sweep has, where the sweeper begins them a few at a time and tells of their sum itself.
        self.num_jobs: int | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take from Hydra what jobs are made of."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs and return what came of them, in their order.

        Args:
            job_overrides: the overrides of each job.
            initial_job_idx: the first one's number.
        """
        # Hydra imports its plug-ins at every start.
        from splitlearn.cli.sweeps import launch

        loader = self.hydra_context.config_loader
        return launch(self.config, loader, self.task_function, job_overrides, initial_job_idx, self.n_jobs, self.num_jobs)
