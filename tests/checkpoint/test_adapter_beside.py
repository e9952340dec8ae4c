"""A PEFT adapter beside the weights, which transformers would apply, is told and never ignored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from splitlearn.app import compose, plan, train, verify
from splitlearn.checkpoint import CheckpointError, hub_download, prepare_checkpoint
from splitlearn.loading import ModelFactory
from tests.hub_server import serving_this_process

ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/base"})
BESIDE = r"holds a PEFT adapter beside its weights \(adapter_config\.json\): merge it"
ALONE = "holds a PEFT adapter and no model: .* name the base model, someone/base"


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    made = tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB")
    shutil.copytree(made, tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text(ADAPTER)
    return tmp_path / "model"


@pytest.mark.parametrize("low_memory", [True, False])
def test_it_is_refused_by_loading(folder: Path, low_memory: bool) -> None:
    with pytest.raises(CheckpointError, match=BESIDE):
        ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory)
    with pytest.raises(CheckpointError, match=BESIDE):
        ModelFactory.load_parts(folder, 2, 4, ["trunk"])


def test_it_is_refused_by_every_command(folder: Path, tmp_path: Path) -> None:
    model = ("model=pretrained", f"model.name_or_path={folder}", "split.point_1=2", "split.point_2=4")
    for command in (plan, verify):
        with pytest.raises(CheckpointError, match=BESIDE):
            command(compose(*model, config_name=command.__name__))
    with pytest.raises(CheckpointError, match=BESIDE):
        train(compose(*model), tmp_path / "run")
    (tmp_path / "out").mkdir()
    for source in (folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match=BESIDE):
            prepare_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize("text", [ADAPTER, "not json"])
def test_an_adapter_without_a_model_names_its_base(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=ALONE if text == ADAPTER else "name the base model$"):
        ModelFactory.load_parts(tmp_path, 2, 4)


@pytest.mark.parametrize("with_model", [True, False])
def test_it_is_refused_in_a_repository(with_model: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_model:
        (folder / "config.json").unlink()
    with (
        serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as hub,
        pytest.raises(CheckpointError, match=BESIDE if with_model else ALONE),
    ):
        ModelFactory.load_parts("someone/tiny", 2, 4)
    assert set(hub.downloads) <= {"config.json", "adapter_config.json"}


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_cache_without_one_loads_offline(
    is_marked: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark in the cache says that the hub has no such file; without one and without the hub, transformers finds none."""
    (folder / "adapter_config.json").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub_download.commit_of.cache_clear()
    root, commit = tmp_path / "hub" / "models--someone--cached", "b" * 40
    shutil.copytree(folder, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    if is_marked:
        (root / ".no_exist" / commit).mkdir(parents=True)
        (root / ".no_exist" / commit / "adapter_config.json").touch()
    assert len(ModelFactory.load_parts("someone/cached", 2, 4).parts) == 3
    (root / "snapshots" / commit / "adapter_config.json").write_text(ADAPTER)
    if not is_marked:
        with pytest.raises(CheckpointError, match=BESIDE):
            ModelFactory.load_parts("someone/cached", 2, 4)
    hub_download.commit_of.cache_clear()
