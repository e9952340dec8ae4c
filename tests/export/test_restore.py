from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from splitlearn.app import TrainResult, compose, generate, train
from splitlearn.app.checkpoints import read_checkpoint
from splitlearn.checkpoint import CheckpointError, write_torch_file
from splitlearn.model import trained_parameters
from tests.export.test_export import CHOICES, SHORT


@pytest.mark.parametrize("choice", ["full", "frozen trunk", "adapters", "adapters and a full trunk"])
def test_the_restored_model_says_what_the_trained_one_says(choice: str, tmp_path: Path) -> None:
    result: TrainResult = train(compose(*SHORT, *CHOICES[choice]), folder=tmp_path)
    settings = ["prompt='The import statement'", "max_new_tokens=12", "compare=true"]
    base, trained = generate(compose(f"run={tmp_path}", *settings, config_name="generate"))
    tokenizer = result.datamodule.tokenizer  # type: ignore[attr-defined]
    inputs = tokenizer("The import statement", return_tensors="pt")
    with torch.no_grad():
        ids_BT = result.module.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    assert trained == tokenizer.decode(ids_BT[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert base != trained


@pytest.mark.parametrize(("choice", "part"), [("full", "bottom"), ("adapters", "trunk")])
def test_a_checkpoint_that_lacks_a_trained_tensor_is_refused(choice: str, part: str, tmp_path: Path) -> None:
    result = train(compose(*SHORT, *CHOICES[choice]), folder=tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    name = next(iter(trained_parameters([getattr(result.module.composed, part)])))
    del content["state_dict"][name]
    write_torch_file(path, content)
    with pytest.raises(CheckpointError, match=f"the checkpoint lacks {re.escape(name)}, which {part} had trained"):
        generate(compose(f"run={tmp_path}", "ckpt=last", "prompt=a", config_name="generate"))


def test_sampling_is_seeded_and_streamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(compose(*SHORT, "peft=lora"), folder=tmp_path)
    settings = ["prompt='A cut'", "max_new_tokens=8", "do_sample=true", "compare=true"]
    first = generate(compose(f"run={tmp_path}", *settings, config_name="generate"), stream=True)
    printed = capsys.readouterr().out
    assert "== base model" in printed and "== trained model" in printed
    assert first[1].strip() in printed
    assert generate(compose(f"run={tmp_path}", *settings, config_name="generate")) == first
    assert generate(compose(f"run={tmp_path}", *settings, "seed=1", config_name="generate")) != first


@pytest.mark.parametrize(("setting", "message"), [("prompt=''", "prompt is empty"), ("chat=true", "has no chat template")])
def test_bad_settings(setting: str, message: str, tmp_path: Path) -> None:
    train(compose(*SHORT, "peft=lora"), folder=tmp_path)
    overrides = [f"run={tmp_path}", *(["prompt=hello"] if "prompt" not in setting else []), setting]
    with pytest.raises(ValueError, match=message):
        generate(compose(*overrides, config_name="generate"))
