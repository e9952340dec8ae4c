"""A search asks for settings, tells what came of them, shares its trials, and goes on with what others left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from optuna.trial import TrialState

from splitlearn.cli.sweeps.searching import open_study, search
from splitlearn.runs import Holder, RunSummary, write_summary

LOSS = {"loss": "minimize"}
RANGE = ["seed=1", "split.point_1=range(1,8)"]


def record(point: int) -> RunSummary:
    """What a run leaves whose loss is least at 5, and which no cut before 2 can have."""
    if point < 2:
        return RunSummary(status="refused", reason="it is no cut", split_point_1=point)
    return RunSummary(status="completed", split_point_1=point, metrics={"val_loss_after": abs(point - 5) + 1.0})


class Records:
    """A launcher that trains nothing, and leaves what runs leave."""

    def __init__(self, folder: Path, of: Callable[[int], RunSummary] = record, n_jobs: int = 1) -> None:
        self.folder, self.of, self.n_jobs = folder, of, n_jobs
        self.num_jobs: int | None = None
        self.batches: list[list[int]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        points = [int(overrides[-1].partition("=")[2]) for overrides in job_overrides]
        assert all(list(overrides[:-1]) == ["seed=1"] for overrides in job_overrides)
        self.batches.append(points)
        told = []
        for point in points:
            folder = self.folder / str(point)
            folder.mkdir(parents=True, exist_ok=True)
            write_summary(folder, self.of(point))
            told.append(JobReturn(working_dir=str(folder)))
        return told


def run(
    launcher: Records, loader: ConfigLoader, n_trials: int, objectives: Mapping[str, str] = LOSS, arguments: list[str] = RANGE
) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(launcher.folder)}}})
    chosen: Any = launcher
    search(config, loader, chosen, arguments, n_trials, objectives, "tpe", None)


def test_trials_get_the_figures_of_their_runs(tmp_path: Path, loader: ConfigLoader, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Records(tmp_path, n_jobs=2)
    run(launcher, loader, 7)
    assert [len(batch) for batch in launcher.batches] == [2, 2, 2, 1] and launcher.num_jobs == 7
    trials = open_study(tmp_path, LOSS, "tpe", None).trials
    for trial in trials:
        point = trial.params["split.point_1"]
        assert trial.values == (None if point < 2 else [abs(point - 5) + 1.0])
        assert trial.state is (TrialState.FAIL if point < 2 else TrialState.COMPLETE)
    best = min((trial for trial in trials if trial.values), key=lambda trial: trial.values)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sweep of 7 runs in ")
    assert lines[-1] == f"  split.point_1={best.params['split.point_1']}  loss {best.values[0]:.6g}"
    assert (tmp_path / "multirun.yaml").is_file()
    again = Records(tmp_path)
    run(again, loader, 7)
    assert again.batches == [], "there are enough"


def test_what_has_no_figure_is_failed(tmp_path: Path, loader: ConfigLoader) -> None:
    run(Records(tmp_path, lambda point: RunSummary(status="completed", metrics={"val_loss_after": None})), loader, 1)
    run(Records(tmp_path, lambda point: RunSummary(status="diverged", metrics={"val_loss_after": 3.0})), loader, 2)
    assert [trial.state for trial in open_study(tmp_path, LOSS, "tpe", None).trials] == [TrialState.FAIL] * 2


def test_settings_that_another_process_runs_are_left_to_it(tmp_path: Path, loader: ConfigLoader) -> None:
    class Held(Records):
        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            return [JobReturn(working_dir=str(self.folder / "held"))]

    run(Held(tmp_path), loader, 1)
    run(Records(tmp_path, lambda point: RunSummary(status="running")), loader, 2)
    assert [trial.state for trial in open_study(tmp_path, LOSS, "tpe", None).trials] == [TrialState.FAIL] * 2


def test_a_process_that_joins_sees_the_others_trials(tmp_path: Path, loader: ConfigLoader) -> None:
    class Joined(Records):
        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            if not self.batches:
                other = Records(tmp_path)
                run(other, loader, 4)
                assert len(other.batches) == 3, "one of the four is under way here"
            return super().launch(job_overrides, initial_job_idx)

    launcher = Joined(tmp_path)
    run(launcher, loader, 4)
    assert len(launcher.batches) == 1
    trials = open_study(tmp_path, LOSS, "tpe", None).trials
    assert len(trials) == 4 and all(trial.state.is_finished() for trial in trials)


def test_a_trial_that_a_dead_process_left_is_gone_on_with(tmp_path: Path, loader: ConfigLoader) -> None:
    def stopped(point: int) -> RunSummary:
        return RunSummary(status="interrupted", reason="SIGINT")

    run(Records(tmp_path, stopped), loader, 1)
    study = open_study(tmp_path, LOSS, "tpe", None)
    (left,) = study.trials
    assert left.state is TrialState.RUNNING
    living = Records(tmp_path)
    run(living, loader, 1)
    assert living.batches == [], "its process lives"

    dead = tmp_path / "dead"
    study = open_study(dead, LOSS, "tpe", None)
    run_here = Records(dead, stopped)
    run(run_here, loader, 1)
    gone = asdict(replace(Holder.here(), started_s=1.0))
    study = open_study(dead, LOSS, "tpe", None)
    from optuna import Trial

    Trial(study, study.trials[0]._trial_id).set_user_attr("holder", gone)
    later = Records(dead)
    run(later, loader, 1)
    assert later.batches == run_here.batches, "with the same settings"
    (trial,) = open_study(dead, LOSS, "tpe", None).trials
    assert trial.state.is_finished()


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "hydra.sweeper.objectives is empty"),
        ({"lose": "minimize"}, "has lose, which is no figure of a run; use some of split_point_1"),
        ({"status": "minimize"}, "has status, which is no figure of a run"),
        ({"loss": "least"}, "hydra.sweeper.objectives.loss is 'least'; use minimize or maximize"),
    ],
)
def test_objectives_that_are_none(
    objectives: dict[str, str], message: str, tmp_path: Path, loader: ConfigLoader, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(Records(tmp_path / "sweep"), loader, 1, objectives)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_search_keeps_its_objectives(tmp_path: Path, loader: ConfigLoader, capsys: pytest.CaptureFixture[str]) -> None:
    run(Records(tmp_path), loader, 1)
    with pytest.raises(SystemExit):
        run(Records(tmp_path), loader, 2, {"step_s": "minimize"})
    assert "was begun with {'loss': 'minimize'}; give these, or name another folder" in capsys.readouterr().err
