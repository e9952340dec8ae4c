"""The launcher's own decisions, without processes; tests/end_to_end/test_sweeps.py runs real ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from splitlearn.cli.sweeps import launching, process
from splitlearn.cli.sweeps.launching import _Sweep, _told, launch
from splitlearn.cli.sweeps.outcomes import Job, Outcome, Report
from splitlearn.runs import RunSummary, hold_run_folder, write_summary


def a_job(number: int, folder: Path) -> Job:
    values = {"overwrite": False, "split": {}, "hydra": {"overrides": {"task": [f"seed={number}"]}, "sweep": {"dir": "a"}}}
    return Job(number, [f"seed={number}"], folder, OmegaConf.create(values))


def no_process(*args: Any) -> Any:
    pytest.fail("a process was started")


def test_jobs_that_are_done_or_held_by_others_are_told_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "make_context", no_process)
    jobs = [a_job(number, tmp_path / str(number)) for number in range(2)]
    for job in jobs:
        job.folder.mkdir()
    write_summary(jobs[0].folder, RunSummary(status="completed"))
    sweep = _Sweep("train", None, 1, jobs, 2)
    with hold_run_folder(jobs[1].folder):
        sweep.run()
    assert [outcome.status for outcome in sweep.outcomes.values()] == ["skipped", "held"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/2  seed=0  skipped: completed before"
    assert lines[1].startswith(f"2/2  seed=1  held: process {os.getpid()} on ") and lines[1].endswith(" runs it")


class Ended:
    """A process that has ended."""

    def __init__(self, exit_status: int, report: Report | None) -> None:
        self.exitcode, self.pid, self._report = exit_status, None, report
        reader, writer = os.pipe()
        os.close(writer)
        self.sentinel = reader

    def recv(self) -> Report:
        if self._report is None:
            raise EOFError
        return self._report

    def join(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_sweep_goes_on_after_a_run_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {0: Ended(-signal.SIGKILL, None), 1: Ended(0, Report(error="no memory")), 2: Ended(0, Report(error="no memory"))}

    def start(context: Any, command: str, job: Job) -> tuple[Any, Any]:
        return ends[job.number], ends[job.number]

    monkeypatch.setattr(launching, "make_context", lambda n_jobs: "context")
    monkeypatch.setattr(launching, "start", start)
    sweep = _Sweep("train", None, 2, [a_job(number, tmp_path / str(number)) for number in range(3)], 3)
    sweep.run()
    assert [sweep.outcomes[number].status for number in range(3)] == ["failed"] * 3
    assert "SIGKILL" in str(sweep.outcomes[0].reason)


@pytest.mark.parametrize(("status", "told"), [("completed", "COMPLETED"), ("refused", "FAILED"), ("failed", "FAILED")])
def test_sweepers_are_told_of_failures_without_being_stopped(tmp_path: Path, status: str, told: str) -> None:
    value = 2.5 if status == "completed" else None
    result = _told(a_job(0, tmp_path), Outcome(status, value=value))
    assert result.status is JobStatus[told]
    assert result.return_value == value


@pytest.mark.parametrize("n_jobs", [0, -1, "two", True, 1.5])
def test_a_number_of_jobs_that_is_none(n_jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from splitlearn.cli import train  # noqa: F401 - which makes the command known
    from splitlearn.cli.command import TASKS

    with pytest.raises(SystemExit) as end:
        launch(OmegaConf.create(), None, TASKS["train"], [], 0, n_jobs)  # type: ignore[arg-type]
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: hydra.launcher.n_jobs is {n_jobs!r}; give a whole number")


@pytest.mark.parametrize(("n_jobs", "given", "threads"), [(1, None, None), (2, None, "4"), (16, None, "1"), (2, "3", "3")])
def test_jobs_at_the_same_time_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, n_jobs: int, given: str | None, threads: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {} if given is None else {"OMP_NUM_THREADS": given})
    monkeypatch.setattr(process, "num_cores", lambda: 8)
    monkeypatch.setattr(process, "_start_tracker", lambda: None)
    monkeypatch.setattr(process.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    process.make_context(n_jobs)
    assert os.environ.get("OMP_NUM_THREADS") == threads
