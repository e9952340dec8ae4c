from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.cli.arguments import prepare
from splitlearn.settings import SettingError
from splitlearn.settings.sweeps import FIXED_KEYS


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("train", ["--learning-rate", "1e-3"], "--learning-rate is no option; settings are given without dashes, as optimizer"),
        ("plan", ["--rows=3"], "--rows=3 is no option; settings are given without dashes, as rows=VALUE"),
        ("plan", ["-x"], "-x is no option"),
        ("plan", ["rows"], "rows is no setting; give settings as NAME=VALUE"),
        ("plan", ["--", "rows=2"], "rows=2 is no setting of plan"),
        ("plan", ["--config-dir", "absent"], "--config-dir is absent, which is no folder"),
        ("plan", ["--config-name", "absent"], "there is no configuration absent"),
        ("plan", ["--cfg", "nothing"], "argument --cfg/-c: invalid choice"),
        ("train", ["-m", "split.point_1=1,2", "+learning_rate=1,2"], "learning_rate is no setting of train"),
        ("train", ["-m", "trainer.max_epochs=1,two"], "trainer.max_epochs is 'two'"),
        ("train", ["-m", "model=embedded,gtp2"], "model=gtp2 is no choice of model"),
        (
            "train",
            ["-m", "hydra/launcher=ray", "seed=1,2"],
            "hydra/launcher=ray is not installed; pip install hydra-ray-launcher",
        ),
        (
            "train",
            ["-m", "hydra/launcher=jobs", "seed=1,2"],
            "hydra/launcher=jobs is no choice of hydra/launcher; there are basic",
        ),
        ("train", ["sweep=cuts"], "sweep=cuts is a grid of runs; add -m to run one after the other"),
        ("train", ["--cfg", "job", "+model.foo=1"], "model.foo is no setting of train"),
    ],
)
def test_what_cannot_be_meant_is_refused(command: str, arguments: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        prepare(command, arguments)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_settings_may_stand_on_both_sides_of_options() -> None:
    arguments = ["split.point_1=1,2", "-m", "seed=1", "+trainer.limit_val_batches=2"]
    shared = f"{FIXED_KEYS}=['seed','trainer.limit_val_batches']"
    assert prepare("train", arguments) == ["-m", "split.point_1=1,2", "seed=1", "+trainer.limit_val_batches=2", shared]


def test_a_plus_is_neither_needed_nor_in_the_way() -> None:
    assert prepare("train", ["trainer.limit_val_batches=2"]) == ["++trainer.limit_val_batches=2"]
    swept = prepare("train", ["-m", "+seed=1,2", "split=thirds"])
    assert swept == ["-m", "++seed=1,2", "split=thirds", f"{FIXED_KEYS}=['split']"]


def test_text_is_quoted_for_hydra() -> None:
    assert prepare("export", ["run=/a b/it's", "out=o"]) == [r"run='/a b/it\'s'", "out=o"]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsede: 4\n")
    with pytest.raises(SettingError, match="sede is no setting of train"):
        prepare("train", ["--config-dir", str(tmp_path), "experiment=mine"])


def test_a_pickle_of_an_earlier_run_is_not_read() -> None:
    with pytest.raises(SettingError, match="reads a pickle file, which may run code"):
        prepare("train", ["--experimental-rerun", "run/.hydra/config.pickle"])


def test_completion_and_hydras_own_help_are_hydras() -> None:
    assert prepare("train", ["-sc", "install=bash"]) == ["-sc", "install=bash"]
    assert prepare("train", ["--hydra-help"]) == ["--hydra-help"]


def test_a_user_may_say_what_names_runs_of_a_sweep() -> None:
    own = f"{FIXED_KEYS}=[seed]"
    assert prepare("train", ["-m", "seed=1", own]) == ["-m", "seed=1", own]
