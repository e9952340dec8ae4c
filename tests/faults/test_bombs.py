"""Small files that would take memory or time without end: deep or full JSON, numbers of layers, shapes, compressed archives."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitlearn.checkpoint import CheckpointError, CheckpointSource, read_part_file
from splitlearn.checkpoint.header import read_header
from splitlearn.checkpoint.main_file import INDEX_FILE, check_inside
from splitlearn.json_text import JsonError, parse_json, read_json_object
from splitlearn.loading import ModelRequest, read_config
from splitlearn.model import UnsupportedModelError


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a checkpoint of which one file at a time is replaced."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in tiny_checkpoint("llama").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[" * 80 + "]" * 80, "nested too deeply"),
        ("[" + "[]," * 4_000_000 + "[]]", "holds more than"),
        (" " * 1_000_001, "longer than the 1,000,000 bytes"),
        ("9" * 5000, "not JSON"),
        ('{"a": "\\ud800"}', "not JSON .it holds half a character, .ud800"),
        ("", "not JSON"),
        ("{broken", "not JSON"),
        ("[1]", "holds a list where an object"),
        ("null", "holds null where an object"),
    ],
)
def test_json_is_bounded(tmp_path: Path, text: str, problem: str) -> None:
    """Fault: JSON that is deep, full, long, or none. Promise: one sentence with the file's path, before anything is built."""
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(JsonError, match=rf"some\.json.*{problem}"):
        read_json_object(path, 1_000_000 if text.startswith(" ") else 64 * 2**20)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Fault: JSON that is no UTF-8. Promise: one sentence with the file's path."""
    (tmp_path / "some.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JsonError, match=r"some\.json is not JSON"):
        read_json_object(tmp_path / "some.json")
    assert parse_json(b'{"a": "\\ud83d\\ude42"}', "here") == {"a": "🙂"}, "two halves are a character"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers in .*config.json is 1000000000"),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers in .*config.json is 1000000000"),
        ({"num_attention_heads": 10**12}, "num_attention_heads in .*config.json is"),
        ({"num_labels": 10**9}, "num_labels in .*config.json is"),
        ({"text_config": {"num_hidden_layers": 10**9}}, r"text_config\.num_hidden_layers in"),
        ({"hidden_size": 10**30}, "hidden_size in .*config.json is a number of 20 digits or more"),
        ({"num_hidden_layers": "many"}, "config.json of .* cannot be used"),
        ({"num_hidden_layers": None}, "config.json of .* cannot be used|number of layers|layers"),
        ({"num_attention_heads": 0}, "config.json of .* cannot be used|cannot build"),
        ({"layer_types": 3}, "config.json of .* cannot be used|cannot build"),
        ({"rope_parameters": [1]}, "config.json of .* cannot be used|cannot build"),
        ({"quantization_config": "much"}, "config.json of .* cannot be used"),
    ],
)
def test_configurations_that_no_model_has(folder: Path, changes: dict[str, Any], problem: str) -> None:
    """Fault: numbers without measure, text or null in `config.json`. Promise: one sentence that names what, at once."""
    edit(folder / "config.json", **changes)
    with pytest.raises((CheckpointError, UnsupportedModelError, ValueError), match=problem) as raised:
        ModelRequest(folder, 2, 4).open().check()
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel@main"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"text_config": {"attn_implementation": "someone/kernel"}},
    ],
)
def test_configurations_that_ask_for_code(folder: Path, changes: dict[str, Any]) -> None:
    """Fault: `config.json` names attention that transformers would download as code. Promise: refused, nothing is asked."""
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"is .someone/kernel.*code of a hub's repository"):
        read_config(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, "null", "3", '"text"', "[]", ""])
def test_configurations_that_are_none(folder: Path, text: str) -> None:
    """Fault: `config.json` is deep, empty or no object. Promise: CheckpointError with its path."""
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(folder)


def test_more_layers_than_tensors(folder: Path) -> None:
    """Fault: a configuration of thousands of layers with a small checkpoint. Promise: refused before a layer is drawn."""
    edit(folder / "config.json", num_hidden_layers=9_999)
    with pytest.raises(CheckpointError, match="9999 layers, but the checkpoint holds only"):
        ModelRequest(folder, 2, 4).open().check()


@pytest.mark.parametrize(
    "name", ["", "a\0b.safetensors", "\ud800.safetensors", "x" * 300, "../x.safetensors", "/x.safetensors", "a\nb"]
)
def test_names_that_no_file_has(folder: Path, name: str) -> None:
    """Fault: an index with names that no file can have, or outside its folder. Promise: CheckpointError, nothing is opened."""
    with pytest.raises(CheckpointError):
        check_inside(name, "model")
    weight_map = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
    edit(folder / INDEX_FILE, weight_map=dict.fromkeys(weight_map, name))
    with pytest.raises(CheckpointError):
        ModelRequest(folder, 2, 4).open().check()


@pytest.mark.parametrize("metadata", [None, 3, [], "text"])
def test_an_index_with_other_metadata(folder: Path, metadata: Any) -> None:
    """Fault: an index whose metadata are none. Promise: they are passed over."""
    edit(folder / INDEX_FILE, metadata=metadata)
    assert CheckpointSource(folder).index["metadata"] == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        {"dtype": "F4", "shape": [2**40, 2**40], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**200], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 0]},
        {"dtype": 3, "shape": [], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [], "data_offsets": [0]},
        {"dtype": "F32", "shape": [], "data_offsets": [0, True]},
        [],
        None,
    ],
)
def test_headers_with_impossible_tensors(tmp_path: Path, entry: Any) -> None:
    """Fault: a safetensors header with a shape that overflows, or none. Promise: CheckpointError with the file's path."""
    text = json.dumps({"weight": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged"):
        read_header(tmp_path / "a.safetensors")


def test_compressed_archives(tmp_path: Path) -> None:
    """Fault: a torch file with compressed entries, which fill the memory. Promise: refused before one is read."""
    torch.save({"format": "splitlearn-part-1", "description": {}, "tensors": {}}, tmp_path / "plain.pt")
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    read_part_file(tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"packed\.pt is damaged"):
        read_part_file(packed)


def test_an_expert_of_a_number_without_measure(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Fault: a tensor's name gives an expert a number in the millions. Promise: refused without counting up to it."""
    folder = shutil.copytree(tiny_checkpoint("mixtral"), tmp_path / "model")
    name, far = (f"model.layers.1.block_sparse_moe.experts.{number}.w1.weight" for number in (3, 3_000_000))
    index = json.loads((folder / INDEX_FILE).read_text())
    shard = folder / index["weight_map"][name]
    save_file({far if key == name else key: tensor for key, tensor in load_file(shard).items()}, shard)
    weight_map = {far if key == name else key: file for key, file in index["weight_map"].items()}
    edit(folder / INDEX_FILE, weight_map=weight_map)
    with pytest.raises(
        CheckpointError, match=r"experts\.3000000\.w1\.weight is the name of a tensor, but the checkpoint has only"
    ):
        ModelRequest(folder, 2, 4).open().check()


def within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def the_same_list_twice(depth: int = 40) -> list[Any]:
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


class Filled:
    """Pickles as the making of so many bytes."""

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return bytearray, (10**11,)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (within_itself(), "nested too deeply"),
        (the_same_list_twice(), "more than 1,000,000 values"),
        (2**1000, "a number of more than 256 bits"),
        (torch.zeros(1).expand(10**10), "a tensor with more places than numbers in the file"),
        ({"exp_avg": torch.zeros(1).expand(10**10)}, "a tensor with more places than numbers in the file"),
        (Filled(), "ValueError"),
    ],
)
def test_pickles_without_measure(tmp_path: Path, value: Any, problem: str) -> None:
    """Fault: a small torch file whose values or tensors have no end. Promise: refused with its path, nothing is filled."""
    path = tmp_path / "top.pt"
    torch.save({"format": "splitlearn-part-1", "description": {"odd": value}, "tensors": {"a": torch.ones(2)}}, path)
    with pytest.raises(CheckpointError, match=rf"top\.pt is damaged.*{problem}"):
        read_part_file(path)
