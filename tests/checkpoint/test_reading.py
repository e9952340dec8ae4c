"""Reading into memory of their own: the same bits, in the file's order, and a file that ends too soon is named."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.reading import TensorRead, read_tensors
from splitlearn.checkpoint.shard import open_shard

TENSORS = {
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "matrix": torch.randn(37, 53),
    "half": torch.randn(64, 9).to(torch.bfloat16),
    # More than one chunk, and no whole number of them.
    "long": torch.arange(3 * 2**20 + 17, dtype=torch.int64),
}


def reads(path: Path, dtype: torch.dtype | None = None) -> list[TensorRead]:
    shard = open_shard(path)
    return [TensorRead(name, shard, dtype or shard.dtype(name)) for name in TENSORS]


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".bin":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    return path


def test_the_bits_are_the_files(path: Path) -> None:
    seen: dict[str, int] = {}
    found = read_tensors(reads(path), seen.__setitem__)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert seen == {name: tensor.nbytes for name, tensor in TENSORS.items()}


def test_a_cast_is_torchs_own(path: Path) -> None:
    found = read_tensors(reads(path, torch.float32), lambda name, size: None)
    assert all(torch.equal(found[name], tensor.to(torch.float32)) for name, tensor in TENSORS.items())


def test_what_was_read_may_be_written(path: Path) -> None:
    before = path.read_bytes()
    for tensor in read_tensors(reads(path), lambda name, size: None).values():
        tensor.zero_()
    assert path.read_bytes() == before


def test_a_file_that_shrinks_is_told_and_does_not_kill_the_process(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    wanted = reads(tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors ends in the middle of \w+; fetch it again"):
        read_tensors(wanted, lambda name, size: None)


def test_an_error_stops_the_rest(tmp_path: Path) -> None:
    many = {f"t{number:03d}": torch.zeros(10) for number in range(200)}
    save_file(many, tmp_path / "model.safetensors")
    shard = open_shard(tmp_path / "model.safetensors")
    seen = []

    def interrupt(name: str, size: int) -> None:
        seen.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_tensors([TensorRead(name, shard, torch.float32) for name in many], interrupt)
    assert len(seen) < len(many)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-tensors")]
