"""Reading a safetensors file's header: it agrees with safetensors itself, and damage is told with the file's name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.header import DTYPES, read_header


def write(path: Path, header: Any, data_bytes: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data_bytes))
    return path


def test_it_says_where_each_tensor_is(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "b": torch.arange(6, dtype=torch.int16).reshape(2, 3)}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert set(header.tensors) == set(load_file(path)) and header.file_bytes == path.stat().st_size
    for name, tensor in tensors.items():
        found = header.tensors[name]
        assert (DTYPES[found.dtype_name], found.shape, found.num_bytes) == (tensor.dtype, tuple(tensor.shape), tensor.nbytes)
        assert found.num_elements == tensor.numel() and found.start >= header.data_start
        content = path.read_bytes()[found.start : found.end]
        if content:
            assert torch.equal(torch.frombuffer(bytearray(content), dtype=tensor.dtype).reshape(tensor.shape), tensor)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        (b"no json", 0),
        (b"[" * 100_000, 0),
        ([], 0),
        ({"a": 3}, 0),
        ({"a": {**GOOD, "shape": [3]}}, 8),
        ({"a": {**GOOD, "shape": [-2]}}, 8),
        ({"a": {**GOOD, "shape": [2.0]}}, 8),
        ({"a": {**GOOD, "data_offsets": [8, 0]}}, 8),
        ({"a": {**GOOD, "data_offsets": [8, 16]}}, 16),
        ({"a": GOOD, "b": GOOD}, 8),
        ({"a": GOOD}, 7),
        ({"a": GOOD}, 9),
    ],
)
def test_a_header_that_is_none_is_told_with_the_file(tmp_path: Path, header: Any, data_bytes: int) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_header(write(tmp_path / "a.safetensors", header, data_bytes))


@pytest.mark.parametrize("content", [b"", b"1234", (2**60).to_bytes(8, "little"), (500).to_bytes(8, "little") + b"{}"])
def test_a_length_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or not a safetensors file"):
        read_header(tmp_path / "a.safetensors")
