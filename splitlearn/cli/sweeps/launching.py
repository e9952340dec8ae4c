"""The launcher's work: jobs are composed, those that are done are skipped, the others run, each in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from splitlearn.cli.errors import refuse
from splitlearn.cli.signals import raise_errors, telling_signals
from splitlearn.cli.sweeps.lines import closing_line, line, opening_line
from splitlearn.cli.sweeps.outcomes import FAILED_RUNS, Job, Outcome, Report, finished_before, outcome_of
from splitlearn.cli.sweeps.process import make_context, start
from splitlearn.runs import find_holder, other_setting
from splitlearn.settings import swept

_ENDED_BY_SIGNAL = 128
# Ends by which a run's time says how long another will take.
_TOOK_THEIR_TIME = ("completed", "failed")


class SweptRun(JobReturn):
    """What Hydra is told of a job. One that failed returns None instead of raising, so that sweepers go on."""

    @property
    def return_value(self) -> Any:
        """What the task returned; None if it failed, or was refused."""
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def launch(
    config: DictConfig,
    loader: ConfigLoader,
    task: Callable[[Any], Any],
    job_overrides: Sequence[Sequence[str]],
    first: int,
    n_jobs: int,
    num_jobs: int | None = None,
) -> list[JobReturn]:
    """Run the jobs of a sweep, each in a process of its own, and print a line for each.

    Args:
        config: the sweep's configuration.
        loader: Hydra's, which composes the jobs' configurations.
        task: the command's task.
        job_overrides: the overrides of each job.
        first: the first one's number.
        n_jobs: how many run at a time.
        num_jobs: how many runs the sweep has, where these are a few of them and others follow; None if these are all.

    Returns:
        What came of each job, in their order.

    Raises:
        SystemExit: a signal ended the sweep, or its folder holds runs of other settings.
    """
    from splitlearn.cli.command import TASKS

    command = next((name for name, known in TASKS.items() if known is task), None)
    if command is None:
        raise ValueError("hydra/launcher=processes runs the commands of splitlearn; choose another launcher for this task")
    if type(n_jobs) is not int or n_jobs < 1:
        refuse(f"hydra.launcher.n_jobs is {n_jobs!r}; give a whole number of at least 1")
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    raise_errors()
    with telling_signals():
        jobs: list[Job] = []
        context = None
        for job in _compose(config, loader, job_overrides, first):
            _refuse_other_settings(job)
            if context is None and finished_before(job) is None:
                # Libraries are imported there while the other configurations are composed.
                context = make_context(n_jobs)
            jobs.append(job)
        sweep = _Sweep(command, context, n_jobs, jobs, num_jobs or first + len(jobs))
        if num_jobs is None:
            print(opening_line(sweep.num_jobs, Path(str(config.hydra.sweep.dir))), flush=True)
        try:
            sweep.run()
        finally:
            if num_jobs is None:
                print(closing_line([*sweep.outcomes.values()], len(jobs)), flush=True)
            FAILED_RUNS.extend(job.folder for job in jobs if (end := sweep.outcomes.get(job.number)) and end.is_failure)
    return [_told(job, sweep.outcomes[job.number]) for job in jobs]


def _compose(config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[Job]:
    for number, overrides in enumerate(job_overrides, start=first):
        job_config = loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.id = str(number)
            job_config.hydra.job.num = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(job_config)
        try:
            folder, name = (str(OmegaConf.select(job_config, f"hydra.sweep.{key}")) for key in ("dir", "subdir"))
        finally:
            HydraConfig.instance().cfg = before
        hydra = job_config.hydra
        varied = swept(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys)
        yield Job(number, varied, Path(folder) / name, job_config)


def _refuse_other_settings(job: Job) -> None:
    """Refuse a sweep whose folder holds results of other settings.

    Raises:
        SystemExit: it does.
    """
    difference = other_setting(job.folder, job.config.hydra.overrides.task) if finished_before(job) is not None else None
    if difference is not None:
        refuse(
            f"{job.folder} holds a run of other settings ({difference}); name another folder with hydra.sweep.dir=..., or "
            "replace all runs with overwrite=true"
        )


def _told(job: Job, outcome: Outcome) -> JobReturn:
    told = SweptRun(overrides=list(job.config.hydra.overrides.task), cfg=None, hydra_cfg=None, working_dir=str(job.folder))
    told.return_value = outcome.value
    told.status = JobStatus.FAILED if outcome.is_failure or outcome.status == "refused" else JobStatus.COMPLETED
    return told


@dataclass
class _Running:
    """A job whose process runs."""

    job: Job
    process: BaseProcess
    connection: Connection
    began_s: float

    def stop(self, number: int) -> None:
        """Pass a signal on."""
        if self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


@dataclass
class _Sweep:
    """Jobs under way: those that wait, those that run, and what became of the others."""

    command: str
    context: BaseContext | None
    n_jobs: int
    jobs: Sequence[Job]
    num_jobs: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def run(self) -> None:
        """Run all jobs. A signal stops those that run, as it would a single run, and no other is begun."""
        waiting = deque(self.jobs)
        running: dict[int, _Running] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.n_jobs:
                    begun = self._begin(waiting.popleft())
                    if begun is not None:
                        running[begun.process.sentinel] = begun
                ended = wait(list(running)) if running else []
                for sentinel in [sentinel for sentinel in running if sentinel in ended]:
                    self._end(running[sentinel])
                    del running[sentinel]
        except BaseException as error:
            number = error.code - _ENDED_BY_SIGNAL if isinstance(error, SystemExit) and isinstance(error.code, int) else 0
            left = [one for one in running.values() if one.job.number not in self.outcomes]
            for one in left:
                one.stop(number if number > 0 else signal.SIGTERM)
            for one in left:
                self._end(one)
            raise

    def _begin(self, job: Job) -> _Running | None:
        """Start a job's process, unless the job is done or another process runs it."""
        done = finished_before(job)
        if done is None and (holder := find_holder(job.folder)) is not None:
            done = Outcome("held", f"{holder} runs it")
        if done is not None:
            self._note(job, done)
            return None
        if self.context is None:
            self.context = make_context(self.n_jobs)
        began_s = time.monotonic()
        process, connection = start(self.context, self.command, job)
        return _Running(job, process, connection, began_s)

    def _end(self, one: _Running) -> None:
        """Wait for a job's process to end, and note what became of the job."""
        report: Report | None = None
        # Nothing comes from a process that was ended before it could say anything.
        with suppress(EOFError, OSError):
            report = one.connection.recv()
        one.process.join()
        exit_status = one.process.exitcode or 0
        self._note(one.job, outcome_of(one.job, report, exit_status, time.monotonic() - one.began_s))
        one.connection.close()
        one.process.close()

    def _note(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.number] = outcome
        print(line(job, self.num_jobs, outcome, self._left_s()), flush=True)

    def _left_s(self) -> float | None:
        """Return how many seconds the other runs will take, if they take as long as those until now; None if unknown."""
        num_left = len(self.jobs) - len(self.outcomes)
        took = [outcome.seconds for outcome in self.outcomes.values() if outcome.status in _TOOK_THEIR_TIME]
        return fmean(took) * num_left / self.n_jobs if took and num_left else None
