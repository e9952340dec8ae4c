"""Ties that a checkpoint contradicts are given up as transformers gives them up, whichever parts are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from splitlearn.app import compose, plan
from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.architectures.catalogue import tiny_model as tiny_architecture
from tests.architectures.published import published_model
from tests.hub_server import serving_this_process
from tests.tiny_models import token_ids

PARTS = ("bottom", "trunk", "top")


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A model that its configuration ties, stored with a head of its own."""
    folder = shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=True, max_shard_size="1GB"), tmp_path / "model")
    store_head(folder, lambda embedding: embedding + 0.1)
    return folder


def store_head(folder: Path, head_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = head_of(tensors["model.embed_tokens.weight"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def one_by_one(name: Path | str) -> ComposedCausalLM:
    return ComposedCausalLM(*(ModelFactory.load_parts(name, 2, 4, [part])[part] for part in PARTS)).eval()


def assert_equal(folder: Path, split: ComposedCausalLM) -> None:
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(token_ids(), use_cache=False).logits
        assert torch.equal(split(token_ids()).logits, expected)


def test_parts_loaded_one_by_one_are_one_model(folder: Path, tmp_path: Path) -> None:
    split = one_by_one(folder)
    assert_equal(folder, split)
    for part in split.parts:
        part.save(tmp_path / f"{part.spec.name}.pt")
    assert_equal(folder, ModelFactory.load_saved_parts(tmp_path))


def test_a_plan_counts_both(folder: Path) -> None:
    settings = ("model=pretrained", f"model.name_or_path={folder}", "split.point_1=2", "split.point_2=4")
    top = plan(compose(*settings, config_name="plan")).parts[-1]
    assert top.num_parameters == ModelFactory.load_parts(folder, 2, 4, ["top"])["top"].num_parameters


def test_from_a_hub_a_trunk_does_not_look_and_still_fits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as hub:
        trunk = ModelFactory.load_parts("someone/tiny", 2, 4, ["trunk"])["trunk"]
        assert hub.sent_bytes < trunk.weight_bytes + 2**18, "neither embedding nor head"
        ends = [ModelFactory.load_parts("someone/tiny", 2, 4, [part])[part] for part in ("bottom", "top")]
        assert_equal(folder, ComposedCausalLM(ends[0], trunk, ends[1]).eval())


def test_a_head_that_becomes_equal_is_tied(folder: Path) -> None:
    """What counts are the values that are loaded: a head that was stored in bfloat16 is the embedding in bfloat16."""
    store_head(folder, lambda embedding: embedding.bfloat16())
    for dtype, is_shared in ((torch.float32, False), (torch.bfloat16, True)):
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        assert (whole.lm_head.weight is whole.model.embed_tokens.weight) == is_shared
        bottom, _, top = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=True, dtype=dtype)
        assert (top.model.lm_head.weight is bottom.model.model.embed_tokens.weight) == is_shared


def test_a_tie_that_is_not_contradicted_stays(tmp_path: Path) -> None:
    """Two things are tied in a BERT; one of them is stored twice, with two values, and the other once."""
    tiny_architecture("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("cls.predictions.decoder.bias", None)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"] + 0.1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal(tmp_path, one_by_one(tmp_path))


def test_parts_of_two_checkpoints_are_still_told_apart(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    parts = {name: ModelFactory.load_parts(folder, 2, 4, [name])[name] for name in PARTS}
    with pytest.raises(ValueError, match="they are from"):
        ComposedCausalLM(parts["bottom"], ModelFactory.load_parts(other, 2, 4, ["trunk"])["trunk"], parts["top"])


@pytest.mark.parametrize("place", ["whole", "text"])
@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "bitsandbytes", "torchao"])
def test_quantized_weights_are_refused_by_name(method: str, place: str, folder: Path, tmp_path: Path) -> None:
    if place == "text":
        folder = tmp_path / "composite"
        published_model("qwen3_5").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    inner = config["text_config"] if place == "text" else config
    inner["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))
    for low_memory in (True, False):
        with pytest.raises(CheckpointError, match=rf"is quantized already \(quantization_config in config\.json: {method}\)"):
            ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory)
