from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.checkpoint import CheckpointError, read_part_file, write_part_file
from splitlearn.loading import ModelFactory, save_parts
from splitlearn.model import ComposedCausalLM, SplitModel
from splitlearn.runs import Stamp
from tests.architectures.catalogue import tiny_model
from tests.tiny_models import CONFIGS, token_ids

LOAD_AND_RUN = """
import sys, torch
torch.set_num_threads(1)  # as in the test run: sums of experts depend on it
from splitlearn.model import ComposedCausalLM, SplitModel
parts = [SplitModel.load(f"{sys.argv[1]}/{name}.pt") for name in ("bottom", "trunk", "top")]
with torch.no_grad():
    torch.save(ComposedCausalLM(*parts)(torch.load(sys.argv[2], weights_only=True)).logits, sys.argv[3])
"""


@pytest.mark.parametrize("model_type", ["gpt2", "gemma3_text", "mixtral"])
def test_saved_parts_load_in_a_fresh_process_without_the_checkpoint(
    model_type: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint(model_type, tie_word_embeddings=True), tmp_path / "model")
    parts = ModelFactory.create_split_models(
        model_type, folder, 2, 4, low_memory=True, storage_path=tmp_path / "parts", auto_save=True
    )
    with torch.no_grad():
        expected = ComposedCausalLM(*parts)(token_ids()).logits.clone()
    shutil.rmtree(folder)
    torch.save(token_ids(), tmp_path / "ids.pt")
    command: list[str | Path] = [
        sys.executable,
        "-c",
        LOAD_AND_RUN,
        tmp_path / "parts",
        tmp_path / "ids.pt",
        tmp_path / "logits.pt",
    ]
    subprocess.run(command, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_saved_parts_are_complete_for_every_architecture(
    model_type: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(model_type, tie_word_embeddings=False)
    parts = ModelFactory.create_split_models(model_type, folder, 2, 4, low_memory=True)
    loaded = [SplitModel.load(path) for path in save_parts(parts, tmp_path)]
    with torch.no_grad():
        assert torch.equal(ComposedCausalLM(*parts)(token_ids()).logits, ComposedCausalLM(*loaded)(token_ids()).logits)


def test_parts_of_two_states_of_a_run_are_not_joined(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    parts = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    save_parts(parts, tmp_path, Stamp("a", 1))
    assert {part.stamp for part in ModelFactory.load_saved_parts(tmp_path).parts} == {Stamp("a", 1)}
    save_parts(parts[:1], tmp_path, Stamp("a", 2))
    with pytest.raises(ValueError, match="bottom is of run a at step 2, trunk is of run a at step 1, top is"):
        ModelFactory.load_saved_parts(tmp_path)
    save_parts(parts[:1], tmp_path)
    with pytest.raises(ValueError, match="holds parts of two saves: bottom names no run"):
        ModelFactory.load_saved_parts(tmp_path)
    bottom, trunk, top = (SplitModel.load(tmp_path / f"{name}.pt") for name in ("bottom", "trunk", "top"))
    assert bottom.stamp is None
    ComposedCausalLM(bottom, trunk, top)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mamba2"])
def test_a_parameter_of_two_names_and_an_infinity_are_saved_and_read(architecture: str, tmp_path: Path) -> None:
    """BERT's head has its bias twice; Mamba-2's configuration has an infinite time step."""
    tiny_model(architecture).save_pretrained(tmp_path / "model")
    parts = ModelFactory.create_split_models(None, tmp_path / "model", 2, 4, low_memory=True)
    loaded = [SplitModel.load(path) for path in save_parts(parts, tmp_path / "parts")]
    for part, again in zip(parts, loaded, strict=True):
        assert part.blueprint.config.to_dict() == again.blueprint.config.to_dict()
        assert part.named_tensors().keys() == again.named_tensors().keys()
        assert len(list(part.parameters())) == len(list(again.parameters()))
    with torch.no_grad():
        assert torch.equal(ComposedCausalLM(*parts)(token_ids()).logits, ComposedCausalLM(*loaded)(token_ids()).logits)


def test_a_file_that_holds_one_of_two_names_is_read(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "model")
    _, _, top = ModelFactory.create_split_models(None, tmp_path / "model", 2, 4, low_memory=True)
    top.save(tmp_path / "top.pt")
    description, tensors = read_part_file(tmp_path / "top.pt")
    del tensors["cls.predictions.decoder.bias"]
    write_part_file(tmp_path / "older.pt", description, tensors)
    head: Any = SplitModel.load(tmp_path / "older.pt").model.get_submodule("cls.predictions")
    assert head.bias is head.decoder.bias


def test_a_copied_part_is_a_part_of_its_own(tiny_checkpoint: Callable[..., Path]) -> None:
    _, trunk, _ = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    copied = copy.deepcopy(trunk)
    hidden = torch.randn(1, 3, 64)
    with torch.no_grad():
        expected = trunk(hidden)
        for parameter in trunk.parameters():
            parameter.zero_()
        assert torch.equal(copied(hidden), expected)


def test_a_saved_trained_part_keeps_what_it_learned(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    trunk = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 1, 5, low_memory=True)[1]
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(1.0)
    trunk.save(tmp_path / "trunk.pt")
    loaded = SplitModel.load(tmp_path / "trunk.pt")
    assert loaded.spec == trunk.spec
    assert not loaded.training
    for (name, saved), (other, read) in zip(trunk.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and torch.equal(saved, read)


def test_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    write_part_file(tmp_path / "part.pt", {"config": "{}"}, {})
    with pytest.raises(CheckpointError, match="does not say which part it is"):
        SplitModel.load(tmp_path / "part.pt")


def test_inputs_that_a_part_does_not_take(tiny_checkpoint: Callable[..., Path]) -> None:
    bottom, trunk, top = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    with pytest.raises(ValueError, match=r"bottom takes token ids of shape \(B, T\), not torch.float32"):
        bottom(torch.zeros(1, 2, 64))
    with pytest.raises(ValueError, match=r"trunk takes smashed data of shape \(B, T, D\), not torch.int64"):
        trunk(token_ids())
    with pytest.raises(ValueError, match=r"past_key_values=part\.make_cache\(\)"):
        top(torch.zeros(1, 2, 64), use_cache=True)


def test_an_interrupted_call_does_not_spoil_the_next(tiny_checkpoint: Callable[..., Path]) -> None:
    _, trunk, _ = ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4, low_memory=True)
    hidden = torch.randn(1, 3, 64)
    with torch.no_grad():
        expected = trunk(hidden)
        with pytest.raises(TypeError):
            trunk(hidden, attention_mask=torch.ones(1, 99, 7))
        assert torch.equal(trunk(hidden), expected)


def test_parts_of_different_cuts_do_not_compose(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama")
    bottom, trunk, _ = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True)
    *_, top = ModelFactory.create_split_models(None, folder, 2, 5, low_memory=True)
    with pytest.raises(ValueError, match="not bottom, trunk and top of one cut"):
        ComposedCausalLM(bottom, trunk, top)
    with pytest.raises(ValueError, match="not bottom, trunk and top of one cut"):
        ComposedCausalLM(trunk, bottom, top)


def test_hooks_of_a_part_see_what_it_documents(tiny_checkpoint: Callable[..., Path]) -> None:
    """Also if the model is run as a whole, and what they put in its place is passed on."""
    parts = ModelFactory.create_split_models(None, tiny_checkpoint("mixtral"), 2, 4, low_memory=True)
    model = ComposedCausalLM(*parts)
    seen: dict[str, Any] = {}

    def note(part: Any, inputs: Any, output: Any) -> None:
        seen[part.spec.name] = output

    for part in parts:
        part.register_forward_hook(note)
    with torch.no_grad():
        whole = model(token_ids(), output_hidden_states=True)
        handles = [part.register_forward_hook(lambda part, inputs, output: output * 0) for part in parts[:2]]
        stilled = model(token_ids()).logits
        for handle in handles:
            handle.remove()
        expected = parts[2](torch.zeros_like(seen["trunk"])).logits
    assert seen["bottom"].shape == seen["trunk"].shape == whole.hidden_states[0].shape
    assert seen["top"].logits.shape == whole.logits.shape
    assert torch.equal(stilled, expected)


def test_a_run_looks_up_the_device_of_each_part_once(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ComposedCausalLM(*ModelFactory.create_split_models(None, tiny_checkpoint("llama"), 2, 4)).train()
    looked_up: list[str] = []

    def device(part: SplitModel) -> torch.device:
        looked_up.append(part.spec.name)
        return torch.device("cpu")

    monkeypatch.setattr(SplitModel, "device", property(device))
    model(token_ids())
    assert looked_up == ["bottom", "trunk", "top"]
