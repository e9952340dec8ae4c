from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.settings import SettingError, compose
from splitlearn.settings.composing import compose_for


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=gtp2", "model=gtp2 is no choice of model; there are embedded, gpt2, "),
        ("model=gtp2", "; model=gpt2 was probably meant"),
        ("split=7", "split=7 is no choice of split; there are auto, "),
        ("optimizer=null", "optimizer=null is no choice of optimizer; there are adamw"),
        ("experiment=none", "experiment=none is no choice of experiment"),
        ("modle=gpt2", "modle is no setting of train"),
        ("seed", "seed is no setting; give settings as NAME=VALUE"),
        ("trainer.max_epochs=1,2", "trainer.max_epochs=1,2 has several values; add -m"),
        ("optimizer.betas=[0.9", "optimizer.betas=[0.9 cannot be read"),
        ("hydra.foo=1", "hydra.foo"),
    ],
)
def test_what_cannot_be_composed_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        compose(override)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_settings_in_ones_own_files_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 4\nlearning_rate: 1\n")
    with pytest.raises(SettingError, match="learning_rate is no setting of train"):
        compose_for("train", ["experiment=mine"], config_dir=str(tmp_path))
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 4\n")
    cfg, overrides = compose_for("train", ["experiment=mine", "+trainer.max_epochs=1"], config_dir=str(tmp_path))
    assert (cfg.seed, cfg.trainer.max_epochs) == (4, 1)
    assert overrides == ["experiment=mine", "++trainer.max_epochs=1"], "Hydra refuses a + for what is there"
    with pytest.raises(SettingError, match="--config-dir is absent, which is no folder"):
        compose_for("train", [], config_dir="absent")


@pytest.mark.parametrize("hosts", ["[a.example.org]", "{trunk: [localhost], top: [localhost]}"])
def test_hosts_are_a_list_or_a_list_for_each_party(hosts: str) -> None:
    assert len(compose("out=keys", f"hosts={hosts}", config_name="certificates").hosts) == hosts.count("[")
