from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from splitlearn.app import FinishedRunError
from splitlearn.app.sweeping import describe_job, keep_traceback, refuse_done_job, settle_job
from splitlearn.checkpoint import CheckpointError
from splitlearn.runs import RunSummary, write_hydra_files, write_summary
from splitlearn.settings import compose

Job = Callable[..., None]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A function that has Hydra say that this process runs a job with these overrides."""
    before = HydraConfig.instance().cfg

    def begin(*overrides: str, mode: RunMode = RunMode.MULTIRUN) -> None:
        names = {"config": {"override_dirname": {"exclude_keys": ["trainer.max_steps"]}}}
        hydra = {"mode": mode, "overrides": {"task": list(overrides)}, "job": names, "sweep": {"dir": str(tmp_path / "sweep")}}
        configured: Any = OmegaConf.create({"hydra": hydra})
        HydraConfig.instance().cfg = configured

    yield begin
    HydraConfig.instance().cfg = before


def leave(folder: Path, status: str, *overrides: str) -> None:
    write_summary(folder, RunSummary(status=status))
    write_hydra_files(folder, OmegaConf.create(), OmegaConf.create({"overrides": {"task": list(overrides)}}))


@pytest.mark.parametrize("status", ["completed", "refused", "diverged"])
def test_a_job_that_is_done_is_refused(status: str, job: Job, tmp_path: Path) -> None:
    leave(tmp_path, status, "seed=1")
    job("seed=1")
    with pytest.raises(FinishedRunError, match="is finished"):
        refuse_done_job(tmp_path, overwrite=False)
    refuse_done_job(tmp_path, overwrite=True)
    job("seed=1", mode=RunMode.RUN)
    refuse_done_job(tmp_path, overwrite=False)


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_other_jobs_go_on(status: str, job: Job, tmp_path: Path) -> None:
    job("seed=1")
    refuse_done_job(tmp_path, overwrite=False)
    leave(tmp_path, status, "seed=1")
    refuse_done_job(tmp_path, overwrite=False)


def test_a_run_of_other_settings_is_not_gone_on_with(job: Job, tmp_path: Path) -> None:
    leave(tmp_path, "interrupted", "seed=1", "trainer.max_steps=2")
    job("seed=1", "trainer.max_steps=3")
    with pytest.raises(CheckpointError, match=r"other settings \(trainer.max_steps=2 then and trainer.max_steps=3 now\)"):
        refuse_done_job(tmp_path, overwrite=False)
    leave(tmp_path, "failed", "seed=1", "trainer.max_steps=2")
    refuse_done_job(tmp_path, overwrite=False)


def test_a_job_begins_from_its_last_checkpoint_unless_told_otherwise(job: Job) -> None:
    job("seed=1")
    for override, path in (("seed=1", "auto"), ("overwrite=true", None), ("ckpt_path=a.ckpt", "a.ckpt")):
        cfg = compose(override, "run_folder=a")
        settle_job(cfg)
        assert cfg.ckpt_path == path
    job("seed=1", mode=RunMode.RUN)
    cfg = compose("run_folder=a")
    settle_job(cfg)
    assert cfg.ckpt_path is None


def test_the_record_says_what_varies(job: Job, tmp_path: Path) -> None:
    assert describe_job() == {}
    job("seed=1", "++split.point_1=2", "trainer.max_steps=3")
    assert describe_job() == {"overrides": ["seed=1", "split.point_1=2"], "sweep": str((tmp_path / "sweep").resolve())}


def test_the_place_of_a_failure_is_kept(job: Job, tmp_path: Path) -> None:
    keep_traceback(tmp_path, ValueError("a"))
    assert not (tmp_path / "traceback.txt").exists(), "a single run shows it"
    job("seed=1")
    keep_traceback(tmp_path, ValueError("https://host/a?signature=secret"))
    text = (tmp_path / "traceback.txt").read_text()
    assert "ValueError" in text and "secret" not in text


def test_loggers_group_the_runs_of_a_sweep(job: Job, tmp_path: Path) -> None:
    job("seed=1")
    name = "/".join((tmp_path / "sweep").parts[-3:])
    assert compose("logger=wandb", "run_folder=a").logger.wandb.group == name
    assert compose("logger=mlflow", "run_folder=a").logger.mlflow.experiment_name == name
