"""Of several sets of weights in one place, the one that transformers takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from splitlearn.checkpoint import CheckpointError, CheckpointSource, hub_download
from splitlearn.checkpoint.main_file import INDEX_FILE, SINGLE_FILE
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.hub_server import HubServer, serving_this_process
from tests.tiny_models import token_ids

COMMIT = "a" * 40
Write = Callable[[Path, dict[str, torch.Tensor]], None]


def write_single(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    names = sorted(tensors)
    weight_map = {name: f"model-{1 + index % 2:05d}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file, {"format": "pt"})
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_torch(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def write_torch_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model-00001-of-00001.bin")
    weight_map = dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# The order in which transformers looks for them.
ORDER: tuple[Write, ...] = (write_single, write_shards, write_torch, write_torch_shards)


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder that holds a configuration and no weights."""
    made = tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB")
    shutil.copytree(made, tmp_path / "model", ignore=shutil.ignore_patterns(SINGLE_FILE))
    return tmp_path / "model"


@pytest.fixture
def weights(tiny_checkpoint: Callable[..., Path]) -> list[dict[str, torch.Tensor]]:
    """As many sets of weights, each of its own values."""
    tensors = load_file(tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB") / SINGLE_FILE)
    return [{name: tensor + 0.01 * index for name, tensor in tensors.items()} for index in range(len(ORDER))]


def assert_equal_to_transformers(name: Path | str) -> None:
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(name).eval()(token_ids(), use_cache=False).logits
        for low_memory in (True, False):
            parts = ModelFactory.create_split_models(None, name, 2, 4, low_memory=low_memory)
            assert torch.equal(ComposedCausalLM(*parts).eval()(token_ids()).logits, expected)


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_several_sets_of_weights_transformers_is_followed(first: int, folder: Path, weights: list) -> None:
    for write, tensors in list(zip(ORDER, weights, strict=True))[first:]:
        write(folder, tensors)
    assert_equal_to_transformers(folder)


def test_an_index_of_shards_that_are_gone_does_not_hide_a_single_file(folder: Path, weights: list) -> None:
    write_shards(folder, weights[1])
    write_single(folder, weights[0])
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    assert_equal_to_transformers(folder)


def test_a_file_that_the_configuration_names_wins(folder: Path, weights: list) -> None:
    write_single(folder, weights[0])
    save_file(weights[1], folder / "other.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    assert_equal_to_transformers(folder)
    for name, error in (("../model.safetensors", "outside"), ("other.bin", "name a .safetensors file")):
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        with pytest.raises(CheckpointError, match=error):
            _ = CheckpointSource(folder).index


def test_weights_of_a_variant_are_named_and_not_taken(folder: Path, weights: list) -> None:
    save_file(weights[0], folder / "model.fp16.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileNotFoundError, match=r"holds none of .*; rename model\.fp16\.safetensors if that is what you mean"):
        ModelFactory.load_parts(folder, 2, 4)


def test_a_distributed_checkpoint_is_refused(folder: Path, weights: list) -> None:
    write_single(folder, weights[0])
    (folder / "shard-00000-model-00001-of-00001.safetensors").touch()
    with pytest.raises(CheckpointError, match="distributed checkpoint"):
        ModelFactory.load_parts(folder, 2, 4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of one repository in a hub's cache that can only be read offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--someone--cached"
    (root / "refs").mkdir(parents=True)
    hub_download.commit_of.cache_clear()
    yield root
    hub_download.commit_of.cache_clear()


@pytest.mark.parametrize("first", range(len(ORDER)))
@pytest.mark.parametrize("reference", [COMMIT, f"{COMMIT}\n", f" {COMMIT}\r\n"])
def test_a_cache_is_read_as_transformers_does(first: int, reference: str, folder: Path, weights: list, cache: Path) -> None:
    for write, tensors in list(zip(ORDER, weights, strict=True))[first:]:
        write(folder, tensors)
    shutil.copytree(folder, cache / "snapshots" / COMMIT)
    (cache / "refs" / "main").write_text(reference)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(token_ids(), use_cache=False).logits
        for low_memory in (True, False):
            parts = ModelFactory.create_split_models(None, "someone/cached", 2, 4, low_memory=low_memory)
            assert torch.equal(ComposedCausalLM(*parts).eval()(token_ids()).logits, expected)


def test_a_reference_that_is_no_commit_is_not_followed(folder: Path, cache: Path) -> None:
    (cache / "refs" / "main").write_text("nonsense\n")
    with pytest.raises(FileNotFoundError, match="cannot be reached"):
        _ = CheckpointSource("someone/cached").commit


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as running:
        yield running


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_a_hub_only_the_first_set_is_fetched(first: int, folder: Path, weights: list, hub: HubServer) -> None:
    for write, tensors in list(zip(ORDER, weights, strict=True))[first:]:
        write(folder, tensors)
    trunk = ModelFactory.load_parts("someone/tiny", 2, 4, ["trunk"])["trunk"]
    expected = weights[first]["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(trunk.model.model.layers[0].mlp.up_proj.weight, expected)
    fetched = {*hub.downloads, *(file for file, _, _ in hub.ranges)} - {"config.json", "generation_config.json"}
    files = {SINGLE_FILE: 0, "pytorch_model.bin": 2, "pytorch_model.bin.index.json": 3, INDEX_FILE: 1}
    sets = {files.get(file, 1 if file.endswith(".safetensors") else 3) for file in fetched}
    assert sets == {first}
