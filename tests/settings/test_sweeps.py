from __future__ import annotations

import pytest

from splitlearn.settings import compose, fixed_keys, swept
from splitlearn.settings.sweeps import run_name


def test_a_job_is_named_by_what_the_sweep_varies() -> None:
    overrides = ["split.point_1=2", "++split.point_2=5", "trainer.max_steps=2", "+seed=1"]
    assert swept(overrides, ["trainer.max_steps"]) == ["split.point_1=2", "split.point_2=5", "seed=1"]
    assert run_name(overrides, ["trainer.max_steps"]) == "split.point_1=2,split.point_2=5,seed=1"


def test_a_sweep_in_which_nothing_varies_has_a_run_with_a_name() -> None:
    assert run_name(["seed=1"], ["seed"]) == "run"


@pytest.mark.parametrize("value", ["a b", "../../up", "/root", "'it''s'", "x" * 41, "ä", "a\nb", "[1,2]", "$(reboot)", "*"])
def test_unsafe_and_long_values_are_cut_down_and_told_apart(value: str) -> None:
    name = run_name([f"data.source={value}"])
    assert name.startswith("data.source=") and len(name) < 70
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-")
    assert name != run_name([f"data.source={value} "])
    assert "/" not in name


def test_many_values_make_a_name_that_file_systems_take() -> None:
    names = {run_name([f"part_{index}.learning_rate=0.00{index + last}" for index in range(20)]) for last in range(5)}
    assert len(names) == 5 and max(map(len, names)) <= 200


def test_what_all_runs_share_is_told_to_hydra() -> None:
    told = fixed_keys(["split.point_1=1,2", "++trainer.max_steps=2", "~logger", "hydra.sweep.dir=x"], ["split.point_1"])
    assert told == "hydra.job.config.override_dirname.exclude_keys=['logger','trainer.max_steps']"


def test_outside_a_sweep_loggers_have_no_group() -> None:
    assert compose("logger=wandb", "run_folder=a").logger.wandb.group is None
    assert compose("logger=mlflow", "run_folder=a").logger.mlflow.experiment_name == "splitlearn"
