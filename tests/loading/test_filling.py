"""A part that is filled without transformers' loader is what that loader would have made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from splitlearn.loading import ModelFactory, ModelRequest, part_loader
from splitlearn.model.digest import part_digest
from tests.architectures.catalogue import tiny_model

# One with buffers that no checkpoint holds, one that keeps its router in float32, one that keeps whole modules in it, one whose
# checkpoint is converted.
ARCHITECTURES = ["gemma3_text", "hunyuan_v1_moe", "olmo_hybrid", "mixtral"]


def whole(architecture: str, folder: Path, stored: torch.dtype) -> PreTrainedModel:
    tiny_model(architecture).to(stored).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_has_transformers_value_and_dtype(architecture: str, stored: torch.dtype, tmp_path: Path) -> None:
    expected = whole(architecture, tmp_path, stored)
    tensors = dict(expected.named_parameters(remove_duplicate=False)) | dict(expected.named_buffers())
    parts = ModelFactory.create_split_models(None, tmp_path, 2, 4, low_memory=True, dtype=torch.bfloat16)
    for part in parts:
        found = part.named_tensors()
        assert found
        for name, tensor in found.items():
            assert tensor.dtype == tensors[name].dtype, name
            assert torch.equal(tensor, tensors[name]), name


def test_without_conversions_transformers_loader_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole("llama", tmp_path, torch.bfloat16)
    calls: list[object] = []
    original = part_loader.fill_by_conversion

    def counted(*args: Any) -> None:
        calls.append(args)
        original(*args)

    monkeypatch.setattr(part_loader, "fill_by_conversion", counted)
    ModelFactory.create_split_models(None, tmp_path, 2, 4, low_memory=True)
    assert not calls
    whole("mixtral", tmp_path / "moe", torch.bfloat16)
    ModelFactory.create_split_models(None, tmp_path / "moe", 2, 4, low_memory=True)
    assert len(calls) == 3


@pytest.mark.parametrize("low_memory", [True, False])
def test_what_transformers_changes_after_loading_is_changed_in_the_parts_too(low_memory: bool, tmp_path: Path) -> None:
    """Youtu clears the padding row of its embedding, and with it the row of the head that is tied to it."""
    stored = tiny_model("youtu")
    stored.save_pretrained(tmp_path)
    expected: Any = AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().weight
    assert not torch.equal(expected, stored.get_input_embeddings().weight)
    bottom, _, top = ModelFactory.create_split_models(None, tmp_path, 2, 4, low_memory=low_memory)
    assert torch.equal(bottom.named_tensors()["model.embed_tokens.weight"], expected)
    assert torch.equal(top.named_tensors()["lm_head.weight"], expected)


def test_a_head_loaded_by_itself_is_what_the_embedding_would_lend_it(tmp_path: Path) -> None:
    tiny_model("youtu").save_pretrained(tmp_path)
    expected: Any = AutoModelForCausalLM.from_pretrained(tmp_path).get_output_embeddings().weight
    top = ModelFactory.load_parts(tmp_path, 2, 4, parts=["top"])["top"]
    assert torch.equal(top.named_tensors()["lm_head.weight"], expected)


def test_a_parameter_of_two_names_is_one_in_a_part_loaded_by_itself(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    _, _, top = ModelFactory.create_split_models(None, tmp_path, 2, 4, low_memory=True)
    loader = ModelRequest(tmp_path).open().loader
    alone = loader.load(loader.reading(top.spec), lambda name, size_bytes: None, {})
    head: Any = alone.model.get_submodule("cls.predictions")
    assert head.bias is head.decoder.bias
    assert part_digest(alone) == part_digest(top)
