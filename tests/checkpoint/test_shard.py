"""Torch files of weights (.bin) are read as safely and as lazily as safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitlearn.checkpoint import CheckpointError, CheckpointSource, ShardLoader
from splitlearn.checkpoint.shard import open_shard
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from tests.tiny_models import token_ids


def to_torch_files(source: Path, target: Path) -> Path:
    """Rewrite a safetensors checkpoint as a torch one, sharded the same way."""
    target.mkdir()
    (target / "config.json").write_text((source / "config.json").read_text())
    index = ShardLoader.load_index_json(source)
    renamed = {
        file: file.replace("model", "pytorch_model").replace(".safetensors", ".bin") for file in index["weight_map"].values()
    }
    for file, new in renamed.items():
        torch.save(load_file(source / file), target / new)
    if ShardLoader.is_sharded_model(source):
        weight_map = {name: renamed[file] for name, file in index["weight_map"].items()}
        (target / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


@pytest.mark.parametrize("max_shard_size", ["100KB", "1GB"])
@pytest.mark.parametrize("low_memory", [True, False])
def test_torch_checkpoints_give_the_same_parts(
    max_shard_size: str, low_memory: bool, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size=max_shard_size)
    torch_folder = to_torch_files(folder, tmp_path / "torch")
    assert ShardLoader.is_sharded_model(torch_folder) == (max_shard_size == "100KB")
    expected = ModelFactory.create_split_models("llama", folder, 2, 4, low_memory=low_memory)
    parts = ModelFactory.create_split_models("llama", torch_folder, 2, 4, low_memory=low_memory)
    with torch.no_grad():
        logits = [ComposedCausalLM(*each)(token_ids()).logits for each in (expected, parts)]
    assert torch.equal(*logits)


def test_safetensors_are_preferred(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = to_torch_files(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path / "both")
    for file in tiny_checkpoint("llama", tie_word_embeddings=False).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert all(file.endswith(".safetensors") for file in CheckpointSource(folder).weight_map.values())


def test_files_from_before_zip_archives_can_be_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(open_shard(tmp_path / "old.bin").read("a"), torch.arange(3.0))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["code", "truncated", "empty", "text", "no table"])
def test_bad_torch_files_are_refused(kind: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    content = {"code": {"a": Evil()}, "no table": {"a": 3}}.get(kind, {"a": torch.ones(1000)})
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "no weights")
    with pytest.raises(CheckpointError, match=path.name):
        open_shard(path)
    assert not (tmp_path / "pwned").exists()
