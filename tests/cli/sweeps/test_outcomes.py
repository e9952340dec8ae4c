from __future__ import annotations

import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from splitlearn.cli.sweeps.outcomes import Job, Outcome, Report, finished_before, outcome_of
from splitlearn.runs import RunSummary, hold_run_folder, read_summary, write_summary


def a_job(folder: Path, **settings: object) -> Job:
    hydra = {"overrides": {"task": ["split.point_1=2", "seed=1"]}, "sweep": {"dir": str(folder.parent)}}
    values = {"model": {"name_or_path": "a"}, "split": {"point_1": 2, "point_2": None}, "overwrite": False}
    return Job(0, ["split.point_1=2"], folder, OmegaConf.create({**values, **settings, "hydra": hydra}))


@pytest.mark.parametrize(
    ("status", "skips"),
    [("completed", True), ("refused", True), ("diverged", True), ("failed", False), ("interrupted", False), ("running", False)],
)
def test_jobs_that_are_done_are_skipped(tmp_path: Path, status: str, skips: bool) -> None:
    job = a_job(tmp_path / "run")
    assert finished_before(job) is None
    job.folder.mkdir()
    write_summary(job.folder, RunSummary(status=status, metrics={"val_loss_after": 2.5}))
    done = finished_before(job)
    assert (done is not None) == skips
    if done is not None:
        assert done.value == 2.5
        assert done.is_failure == (status == "diverged"), "a run that diverged does not become a success by being skipped"
    assert finished_before(a_job(job.folder, overwrite=True)) is None


def test_a_damaged_record_is_not_taken_for_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    assert finished_before(a_job(tmp_path)) is None


def test_a_killed_process_leaves_a_record_with_its_reason(tmp_path: Path) -> None:
    job = a_job(tmp_path / "run")
    outcome = outcome_of(job, None, -signal.SIGKILL, 1.0)
    assert outcome.is_failure and outcome.reason is not None and "memory runs out" in outcome.reason
    summary = read_summary(job.folder)
    assert summary is not None and (summary.status, summary.reason) == ("failed", outcome.reason)
    assert (summary.overrides, summary.sweep) == (["split.point_1=2"], str(tmp_path.resolve()))
    assert (summary.split_point_1, summary.split_point_2) == (2, None)
    assert "name_or_path: a" in (job.folder / ".hydra" / "config.yaml").read_text()
    assert "hydra" not in (job.folder / ".hydra" / "config.yaml").read_text()


def test_what_a_killed_process_had_noted_is_kept(tmp_path: Path) -> None:
    write_summary(tmp_path, RunSummary(status="running", run_id="a", split_point_2=6))
    outcome_of(a_job(tmp_path), None, -signal.SIGKILL, 1.0)
    summary = read_summary(tmp_path)
    assert summary is not None and (summary.status, summary.run_id, summary.split_point_2) == ("failed", "a", 6)


def test_the_record_of_a_folder_that_another_process_holds_by_now_stays(tmp_path: Path) -> None:
    write_summary(tmp_path, RunSummary(status="running"))
    with hold_run_folder(tmp_path):
        assert outcome_of(a_job(tmp_path), None, -signal.SIGKILL, 1.0).status == "failed"
    assert (read_summary(tmp_path) or RunSummary()).status == "running"


@pytest.mark.parametrize(
    ("record", "report", "exit_status", "status", "reason"),
    [
        ("completed", Report(2.5), 0, "completed", None),
        ("refused", Report(None), 0, "refused", "said so"),
        ("interrupted", None, 130, "interrupted", "said so"),
        ("failed", Report(error="one sentence"), 0, "failed", "said so"),
        (None, Report(error="one sentence"), 0, "failed", "one sentence"),
        (None, None, 130, "interrupted", "its process ended with status 130 before the run was done"),
        (None, None, 1, "failed", "its process ended with status 1 before the run was done"),
        (None, None, -signal.SIGSEGV, "failed", "its process was ended by SIGSEGV"),
        ("running", Report(error="another runs here", is_held=True), 0, "held", "another runs here"),
    ],
)
def test_ends(
    tmp_path: Path, record: str | None, report: Report | None, exit_status: int, status: str, reason: str | None
) -> None:
    if record is not None:
        write_summary(tmp_path, RunSummary(status=record, reason=None if record == "completed" else "said so"))
    outcome = outcome_of(a_job(tmp_path), report, exit_status, 1.0)
    assert (outcome.status, outcome.reason) == (status, reason)
    assert outcome.value == (2.5 if status == "completed" else None)


def test_which_ends_fail_a_sweep() -> None:
    failing = {
        status
        for status in ("completed", "refused", "skipped", "held", "failed", "diverged", "interrupted")
        if Outcome(status).is_failure
    }
    assert failing == {"failed", "diverged", "interrupted"}
