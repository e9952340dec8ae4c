"""In which dtype a model is loaded is settled as transformers does, and words that it does not know are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from splitlearn.app import compose, plan, train, verify
from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.main_file import INDEX_FILE
from splitlearn.loading import ModelFactory
from splitlearn.loading.dtypes import dtype_in_full
from splitlearn.model import ComposedCausalLM
from tests.architectures.published import published_model
from tests.tiny_models import token_ids

FLOAT8 = torch.float8_e4m3fn


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=False, max_shard_size="1GB"), tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("dtype", "torch_dtype")}
    path.write_text(json.dumps(content | changes))


def store(folder: Path, dtype_of: Callable[[str], torch.dtype]) -> None:
    tensors = {name: tensor.to(dtype_of(name)) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_equal_to_transformers(folder: Path, dtype: torch.dtype) -> None:
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert whole.dtype == dtype
    for low_memory in (True, False):
        parts = ModelFactory.create_split_models(None, folder, 2, 4, low_memory=low_memory)
        assert {parameter.dtype for part in parts for parameter in part.parameters()} == {dtype}
        with torch.no_grad():
            found = ComposedCausalLM(*parts).eval()(token_ids()).logits
            assert torch.equal(found, whole(token_ids(), use_cache=False).logits)


def test_float8_is_read_in_the_dtype_of_the_rest(folder: Path) -> None:
    store(folder, lambda name: FLOAT8 if "proj" in name or "lm_head" in name else torch.bfloat16)
    edit(folder / "config.json")
    assert_equal_to_transformers(folder, torch.bfloat16)
    cost = plan(compose("model=pretrained", f"model.name_or_path={folder}", "split=thirds", config_name="plan"))
    assert cost.dtype == "bfloat16"


def test_weights_in_float8_alone_need_a_dtype(folder: Path) -> None:
    store(folder, lambda name: FLOAT8)
    edit(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"no weights in float32, bfloat16 or float16 .*set dtype$"):
        ModelFactory.load_parts(folder, 2, 4)
    assert ModelFactory.load_parts(folder, 2, 4, dtype=torch.bfloat16)["trunk"].model.dtype == torch.bfloat16


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32])
def test_mixed_weights_take_the_dtype_of_the_first_by_name(first: torch.dtype, folder: Path) -> None:
    """transformers takes the first floating-point tensor of the first file, which safetensors lists by name: the head's."""
    other = torch.float32 if first == torch.bfloat16 else torch.bfloat16
    store(folder, lambda name: first if name.startswith("lm_head") else other)
    edit(folder / "config.json")
    assert_equal_to_transformers(folder, first)


def test_of_torch_files_the_first_tensor_saved_counts(folder: Path) -> None:
    tensors = dict(reversed(load_file(folder / "model.safetensors").items()))
    first = next(iter(tensors))
    torch.save(
        {name: value.to(torch.bfloat16) if name == first else value for name, value in tensors.items()},
        folder / "pytorch_model.bin",
    )
    (folder / "model.safetensors").unlink()
    edit(folder / "config.json")
    assert_equal_to_transformers(folder, torch.bfloat16)


def test_an_index_may_note_the_dtype(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint("llama", tie_word_embeddings=False), tmp_path / "model")
    index = json.loads((folder / INDEX_FILE).read_text())
    (folder / INDEX_FILE).write_text(json.dumps({**index, "metadata": {"dtype": "bfloat16"}}))
    edit(folder / "config.json")
    assert_equal_to_transformers(folder, torch.bfloat16)


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16", "torch_dtype": "nonsense"}, {"dtype": "half"}],
)
def test_words_that_transformers_knows(settings: dict[str, str], folder: Path) -> None:
    edit(folder / "config.json", **settings)
    assert_equal_to_transformers(
        folder, torch.float16 if settings["dtype" if "dtype" in settings else "torch_dtype"] == "half" else torch.bfloat16
    )


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("word", ["bf16", "torch.bfloat16", "auto", "float32 ", "randn", "", 16, True, ["float32"]])
def test_words_that_it_does_not_know(word: object, key: str, folder: Path) -> None:
    edit(folder / "config.json", **{key: word})
    with pytest.raises(CheckpointError, match=rf"^{key} in config\.json of .* is .*, which is no dtype of torch; write"):
        ModelFactory.load_parts(folder, 2, 4)


@pytest.mark.parametrize("word", ["float8_e4m3fn", "int8", "complex64"])
def test_dtypes_that_no_model_is_built_in(word: str, folder: Path) -> None:
    edit(folder / "config.json", dtype=word)
    with pytest.raises(CheckpointError, match=f"is torch.{word}, in which no model can be built"):
        ModelFactory.load_parts(folder, 2, 4)
    assert ModelFactory.load_parts(folder, 2, 4, ["trunk"], dtype=torch.float32)["trunk"].model.dtype == torch.float32


def test_every_command_refuses_them(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", dtype="bf16")
    model = ("model=pretrained", f"model.name_or_path={folder}", "split=thirds")
    for command in (plan, verify):
        with pytest.raises(CheckpointError, match="no dtype of torch"):
            command(compose(*model, config_name=command.__name__))
    with pytest.raises(CheckpointError, match="no dtype of torch"):
        train(compose(*model), tmp_path / "run")


@pytest.mark.parametrize("place", ["whole", "text_config", "both"])
def test_the_dtype_of_a_composite_configuration_is_the_one_that_transformers_takes(place: str, tmp_path: Path) -> None:
    published_model("qwen3_5").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    inner = {name: value for name, value in config["text_config"].items() if name != "dtype"}
    changes = {} if place == "text_config" else {"dtype": "float16"}
    edit(path, **changes, text_config=inner | ({} if place == "whole" else {"dtype": "bfloat16"}))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path).dtype
    assert ModelFactory.load_parts(tmp_path, 2, 4, ["trunk"])["trunk"].blueprint.dtype == expected
    edit(path, text_config=inner | {"dtype": "bf16"})
    with pytest.raises(CheckpointError, match=r"^text_config\.dtype in config\.json"):
        ModelFactory.load_parts(tmp_path, 2, 4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_what_is_trained_is_held_in_float32_unless_its_dtype_was_chosen(half: torch.dtype) -> None:
    assert dtype_in_full(None, half) == torch.float32
    assert dtype_in_full(half, half) == half
    assert dtype_in_full(None, torch.float64) == torch.float64
