from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitlearn.checkpoint import CheckpointError, ShardLoader
from splitlearn.cut import ParamMapper
from splitlearn.loading import ModelRequest
from tests.tiny_models import CONFIGS


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_shards_by_name_are_those_that_loading_opens(model_type: str, tied: bool, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(model_type, tie_word_embeddings=tied)
    index = ShardLoader.load_index_json(folder)
    opened = ModelRequest(folder, 2, 4).open()
    for part in opened.plan.parts:
        required = ShardLoader.get_required_shards_for_component(
            index,
            part.name,
            (part.start, part.end),
            model_type,
            include_embedding=part.has_embedding,
            include_final_norm=part.has_head,
            include_lm_head=part.has_head,
        )
        read = opened.loader.reading(part).files
        # By name alone, a tied head's file cannot be told from those of other tensors that act before the layers.
        assert read <= required if tied and part.has_head else read == required
        assert required < set(index["weight_map"].values())


def test_only_the_tensors_asked_for_are_read(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("qwen2", tie_word_embeddings=False)
    index = ShardLoader.load_index_json(folder)
    file = index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    assert ShardLoader.download_shards_if_needed(folder, {file}) == {file: folder / file}
    tensors = ShardLoader.load_shard_partial(folder / file, lambda name: ParamMapper.get_layer_number(name) == 1)
    expected = {name: tensor for name, tensor in load_file(folder / file).items() if ".layers.1." in name}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        ShardLoader.load_shard_partial(tmp_path / "absent.safetensors", lambda name: True)
    with pytest.raises(FileNotFoundError, match="missing"):
        ShardLoader.download_shards_if_needed(tmp_path, {"absent.safetensors"})
    (tmp_path / "text.safetensors").write_text("no weights here")
    with pytest.raises(CheckpointError, match="damaged"):
        ShardLoader.load_shard_partial(tmp_path / "text.safetensors", lambda name: True)
