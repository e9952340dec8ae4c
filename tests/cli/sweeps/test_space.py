"""Overrides in Hydra's grammar become what Optuna may choose from."""

from __future__ import annotations

import pytest
from hydra.core.config_loader import ConfigLoader
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from splitlearn.cli.sweeps.space import read_space


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("split.point_1=1,2,4", CategoricalDistribution(["1", "2", "4"])),
        ("split.point_1=choice(1,2)", CategoricalDistribution(["1", "2"])),
        ("split.point_1=range(1,4)", IntDistribution(1, 3)),
        ("split.point_1=range(0,8,3)", IntDistribution(0, 6, step=3)),
        ("split.point_1=range(6,0,-2)", IntDistribution(2, 6, step=2)),
        ("optimizer.learning_rate=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("split.point_1=int(interval(1,7))", IntDistribution(1, 7)),
        ("optimizer.learning_rate=interval(1e-5,1e-3)", FloatDistribution(1e-5, 1e-3)),
        ("optimizer.learning_rate=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("peft=glob(*,exclude=custom)", CategoricalDistribution(["lora", "none"])),
    ],
)
def test_what_varies(override: str, distribution: BaseDistribution, loader: ConfigLoader) -> None:
    space = read_space(["seed=3", override], loader)
    assert space.fixed == ["seed=3"]
    assert space.distributions == {override.partition("=")[0]: distribution}


def test_overrides_of_a_run(loader: ConfigLoader) -> None:
    space = read_space(["split.point_1=1,2", "+trainer.max_steps=2", "split.point_1=range(3,5)", "model=embedded"], loader)
    assert space.overrides({"split.point_1": 4}) == ["+trainer.max_steps=2", "model=embedded", "split.point_1=4"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "nothing varies, so there is nothing to search"),
        (["split.point_1=range(4,4)"], r"split.point_1=range\(4,4\) is empty"),
        (["optimizer.learning_rate=interval(1,0.1)"], "is empty; give the lower end first"),
    ],
)
def test_nothing_to_choose_from(overrides: list[str], message: str, loader: ConfigLoader) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(overrides, loader)
