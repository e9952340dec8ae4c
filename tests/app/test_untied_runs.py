"""A run whose head is no longer tied to its embedding: its checkpoints, and all that is done with it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import splitlearn
from splitlearn.app import compose, evaluate, export, generate, plan, train, verify
from splitlearn.app.opening_runs import open_run
from splitlearn.checkpoint import CheckpointError
from splitlearn.export import restore

SHORT = ["data.max_train_blocks=32", "data.max_val_blocks=8", "trainer.enable_progress_bar=false", "verbose=false"]
SHORT += ["logger=none", "trainer.max_epochs=1"]
VANILLA = ["placement=vanilla", "model.untie=true"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> splitlearn.app.TrainResult:
    return train(compose(*SHORT, *VANILLA, "keep_steps=2"), folder=tmp_path_factory.mktemp("untied"))


def exported(run: Path, out: Path, *overrides: str) -> Any:
    export(compose(f"run={run}", f"out={out}", *overrides, config_name="export"))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    return AutoModelForCausalLM.from_pretrained(out).eval()


def assert_same_model(whole: Any, parts: Any) -> None:
    tensors = {name: tensor for part in parts for name, tensor in part.named_tensors().items()}
    expected = dict(whole.named_parameters())
    assert "lm_head.weight" in expected
    for name, parameter in expected.items():
        assert torch.equal(parameter, tensors[name]), name


def test_one_party_trains_it_alike(run: splitlearn.app.TrainResult, tmp_path: Path) -> None:
    one = train(compose(*SHORT, "model.untie=true"), folder=tmp_path)
    vanilla = dict(run.module.named_parameters())
    assert all(torch.equal(parameter, vanilla[name]) for name, parameter in one.module.named_parameters())
    embedding, head = run.module.parts[0].model.model.embed_tokens.weight, run.module.parts[2].model.lm_head.weight
    assert not torch.equal(embedding, head)


def test_it_is_exported_without_the_tie(run: splitlearn.app.TrainResult, tmp_path: Path) -> None:
    assert_same_model(exported(run.folder, tmp_path / "out"), run.module.parts)


@pytest.mark.parametrize("frozen", ["bottom", "top"])
def test_a_frozen_end_is_exported_under_its_own_name(frozen: str, tmp_path: Path) -> None:
    one_end = train(compose(*SHORT, *VANILLA, f"optimizer.parts.{frozen}.train=false"), folder=tmp_path / "run")
    assert_same_model(exported(tmp_path / "run", tmp_path / "out"), one_end.module.parts)
    record, opened = open_run(str(tmp_path / "run"))
    restored = restore(opened, record)
    assert_same_model(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), restored.parts)


def test_its_adapters_are_exported_beside_both_ends(tmp_path: Path) -> None:
    adapted = train(compose(*SHORT, *VANILLA, "peft=lora"), folder=tmp_path / "run")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = adapted.module.eval()(ids).logits
        for adapters in ("merge", "keep"):
            whole = exported(tmp_path / "run", tmp_path / adapters, f"adapters={adapters}")
            torch.testing.assert_close(whole(ids).logits, expected, atol=1e-4, rtol=0)


def test_it_is_measured_and_asked(run: splitlearn.app.TrainResult) -> None:
    for ckpt in ("null", "last"):
        measured = evaluate(compose(f"run={run.folder}", f"ckpt={ckpt}", config_name="evaluate"))
        assert measured["loss"] == pytest.approx(run.metrics["val_loss_after"], abs=1e-6)
    asked = [f"run={run.folder}", "prompt=for each of", "max_new_tokens=4"]
    assert generate(compose(*asked, config_name="generate")) == generate(compose(*asked, "ckpt=last", config_name="generate"))


def test_a_checkpoint_goes_on_to_the_bit(run: splitlearn.app.TrainResult, tmp_path: Path) -> None:
    (half,) = (run.folder / "checkpoints").glob("step_000002*")
    resumed = train(compose(*SHORT, *VANILLA, f"ckpt_path='{half}'"), folder=tmp_path)
    assert resumed.trainer.global_step == 4
    expected = dict(run.module.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in resumed.module.named_parameters())


def test_a_checkpoint_is_not_gone_on_from_with_the_tie(run: splitlearn.app.TrainResult, tmp_path: Path) -> None:
    last = run.folder / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"tensors not trained here: lm_head\.weight"):
        train(compose(*SHORT, f"ckpt_path={last}"), folder=tmp_path)


@pytest.mark.parametrize("streamed", ["true", "false"])
def test_it_is_verified(streamed: str) -> None:
    _, outcomes = verify(compose("model.untie=true", f"streamed={streamed}", "new_tokens=2", config_name="verify"))
    assert len(outcomes) > 2 and all(outcome.is_equal(0) for outcome in outcomes)


def test_the_plan_counts_two_tensors() -> None:
    tied, untied = (plan(compose(f"model.untie={value}", config_name="plan")) for value in ("false", "true"))
    head = 2048 * 128
    assert [two.num_parameters - one.num_parameters for one, two in zip(tied.parts, untied.parts, strict=True)] == [0, 0, head]


def test_a_tie_between_parties_is_refused_before_data_are_read(tmp_path: Path) -> None:
    cfg = compose("placement=vanilla", "data=text_files", f"data.source={tmp_path / 'absent.txt'}")
    with pytest.raises(ValueError, match=r"lm_head.weight is tied to model.embed_tokens.weight.*set model.untie=true"):
        train(cfg, folder=tmp_path / "run")
