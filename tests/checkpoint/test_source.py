import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from splitlearn.checkpoint import CheckpointError, CheckpointSource, ShardLoader
from splitlearn.checkpoint.main_file import INDEX_FILE


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint("qwen2", tie_word_embeddings=False), tmp_path / "model")


def edit_index(folder: Path, **changes: str | None) -> None:
    path = folder / INDEX_FILE
    index = json.loads(path.read_text())
    for name, file in changes.items():
        if file is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = file
    path.write_text(json.dumps(index))


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    for name in (tmp_path / "absent", "./absent"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            CheckpointSource(name)


def test_a_file_is_told_to_be_prepared(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match="python -m splitlearn prepare"):
        CheckpointSource(tmp_path / "model.gguf")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds none of model\.safetensors, .*; is it a model\?"):
        _ = CheckpointSource(tmp_path).index
    assert not ShardLoader.is_sharded_model(tmp_path)


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "\xff\xfe"])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=INDEX_FILE):
        _ = CheckpointSource(folder).index


def test_an_index_without_metadata_is_fine(folder: Path) -> None:
    path = folder / INDEX_FILE
    path.write_text(json.dumps({"weight_map": json.loads(path.read_text())["weight_map"]}))
    assert CheckpointSource(folder).index["metadata"] == {}


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "a/../../b.safetensors", "..\\b.safetensors"])
def test_an_index_must_not_leave_its_folder(folder: Path, file: str) -> None:
    edit_index(folder, **{"model.norm.weight": file})
    with pytest.raises(CheckpointError, match="outside the checkpoint's folder"):
        CheckpointSource(folder).open_shards({file})


def test_a_missing_shard_is_named_with_a_tensor_of_it(folder: Path) -> None:
    source = CheckpointSource(folder)
    file = source.weight_map["model.norm.weight"]
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} is missing \(the index says it holds \S+ and others\)"):
        source.open_shards({file})


@pytest.mark.parametrize("keep", [0, 5, 500, -1])
def test_a_shard_cut_short_is_named(folder: Path, keep: int) -> None:
    source = CheckpointSource(folder)
    file = source.weight_map["model.norm.weight"]
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=f"{file} is damaged"):
        source.open_shards({file})


def test_an_index_that_names_an_absent_tensor(folder: Path) -> None:
    source = CheckpointSource(folder)
    file = source.weight_map["model.norm.weight"]
    edit_index(folder, **{"model.layers.0.extra": file})
    with pytest.raises(CheckpointError, match=rf"{file} has no tensor 'model.layers.0.extra'"):
        CheckpointSource(folder).open_shards({file})


def test_a_single_file_gets_an_index(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("llama", max_shard_size="1GB", tie_word_embeddings=False)
    assert not ShardLoader.is_sharded_model(folder)
    index = ShardLoader.load_index_json(folder)
    assert set(index["weight_map"].values()) == {"model.safetensors"}
    assert "model.layers.5.mlp.up_proj.weight" in index["weight_map"]
