"""A run's model, its checkpoints and a bare checkpoint are attacked; settings that cannot be meant are refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitlearn.app import attack, compose, train
from splitlearn.app.attacking import _OF_MODEL
from splitlearn.runs import read_summary
from splitlearn.settings import SettingError, conf_folder
from splitlearn.training import SplitCausalLM
from tests.app.test_checkpoints import files_of
from tests.export.test_export import SHORT

FEW = ["attack=quick", "attack.attacks=[ridge]", "attack.auxiliary_pieces=60", "attack.test_pieces=4", "attack.tokens=32"]
FEW += ["data.max_train_rows=12", "data.max_val_rows=4"]


def attack_with(*settings: str) -> dict[str, Any]:
    return attack(compose(*FEW, *settings, config_name="attack"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose(*SHORT, "peft=lora", "optimizer.learning_rate=1e-2", "split.point_1=1"), folder=folder)
    return folder


def test_a_run_is_attacked_in_each_of_its_states(run: Path, tmp_path: Path) -> None:
    before = files_of(run)
    out = tmp_path / "new" / "found.json"
    end = attack_with(f"run={run}", f"out={out}")
    assert files_of(run) == before, "nothing is written into the run's folder"
    assert json.loads(out.read_text()) == json.loads(json.dumps(end))
    assert {"headline", "attacks", "token_overlap", "threat_model", "left_out"} <= end.keys()
    assert (end["run"], end["state"], end["split_point_1"]) == (str(run), "end", 1)
    assert end["threat_model"] == getattr(read_summary(run), "threat_model", end["threat_model"])
    last = attack_with(f"run={run}", "ckpt=last")
    assert last["state"] == "last" and last["attacks"][0]["by_position"] == end["attacks"][0]["by_position"]
    base = attack_with(f"run={run}", "base=true")
    assert base["state"] == "base"
    assert base["attacks"][0]["reconstructions"][0]["original"] == end["attacks"][0]["reconstructions"][0]["original"]


def test_a_checkpoint_that_nobody_has_fine_tuned(tmp_path: Path) -> None:
    found = attack_with("split.point_1=1", "cuts=[1,2]", "base_weights=private")
    assert [result["cut"] for result in found["attacks"]] == [1, 2]
    assert found["run"] is None and found["base_weights"] == "private"
    assert not any(result["base_weights_public"] for result in found["attacks"])
    (tmp_path / "notes.txt").write_text("\n\n".join(f"Note {number} is about {number * 7} sheep." for number in range(300)))
    own = attack_with(f"data.source={tmp_path / 'notes.txt'}", "data.val_fraction=0.2", "data.max_train_rows=null")
    assert own["data"] == str(tmp_path / "notes.txt") and own["headline"]["token_recovery"] > 0.5
    coded = attack_with("boundary=topk", "boundary.forward.share=0.02", "split.point_1=1", "base_weights=private")
    assert coded["boundary"]["forward"]["codec"] == "topk"
    assert coded["headline"]["token_recovery"] < found["headline"]["token_recovery"] - 0.1
    noisy = attack_with("defence=dchi", "defence.dchi.epsilon=20", "split.point_1=1", "base_weights=private")
    assert noisy["defence"]["dchi"]["epsilon"] == 20
    assert noisy["headline"]["token_recovery"] < found["headline"]["token_recovery"] - 0.1
    assert "Note" in own["attacks"][0]["reconstructions"][0]["original"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["cuts=[0]"], r"attack.cuts is \[0\], and 0 is none of 1, 2"),
        (["directions=[up]"], "'up' is none of forward, backward"),
        (["attack.attacks=[guess]"], "'guess' is none of nearest_embedding"),
        (["ckpt=last"], "ckpt is last, but names a state of a run; give the run's folder with run="),
        (["boundary.forward=int5"], "int5"),
        (["defence=nopeek"], r"defence\.nopeek works by training; attack a run that was trained with it"),
        (["placement=one_party"], "attack.cuts names cut 1, but nothing crosses it"),
        (["out=."], "out is ., which is a folder; name a file"),
        (["run=absent"], "absent"),
        (["run=absent", "split.point_1=1"], "run is absent, whose own split is attacked; leave split out"),
        (["attack.tokens=100000", "attack.prompt_tokens=4"], "too few for one piece of attack.tokens=100000"),
        (["data.source=absent.txt"], "absent.txt"),
    ],
)
def test_it_is_refused_before_weights_are_read(settings: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitCausalLM, "load_parts", lambda *_: pytest.fail("weights are read"))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        attack_with(*settings)


def test_settings_out_of_range_are_refused_at_once() -> None:
    for setting in ("base_weights=some", "attack.budgets.mlp.seconds=-1", "attack.budgets.guess=1", "json=1"):
        with pytest.raises(SettingError, match=setting.partition("=")[0]):
            compose(setting, config_name="attack")


def test_the_usual_choices_of_the_model_are_those_of_the_file() -> None:
    text = (conf_folder() / "attack.yaml").read_text()
    assert all(f"- {name}: {choice} " in text for name, choice in _OF_MODEL.items())
