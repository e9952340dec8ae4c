"""What is noted of a file has arrived, whatever happened to the process or the machine meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splitlearn.checkpoint import CheckpointError
from splitlearn.checkpoint.header import read_header
from splitlearn.checkpoint.partial_file import PartialFile
from splitlearn.checkpoint.shard import open_partial_shard


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.ones(4), "b": torch.full((4,), 2.0)}, path)
    return path


@pytest.fixture
def partial(whole: Path, tmp_path: Path) -> PartialFile:
    """A file of which nothing but the header has been kept."""
    kept = PartialFile(tmp_path / "kept" / "model.safetensors")
    content = whole.read_bytes()
    kept.path.parent.mkdir()
    kept.keep_header(content[8 : read_header(whole).data_start], len(content))
    return kept


def arrive(partial: PartialFile, whole: Path, name: str) -> tuple[int, int]:
    tensor = read_header(whole).tensors[name]
    with partial.filling() as descriptor:
        os.pwrite(descriptor, whole.read_bytes()[tensor.start : tensor.end], tensor.start)
        partial.record(descriptor, (tensor.start, tensor.end))
    return tensor.start, tensor.end


def test_bytes_are_on_the_disk_before_they_are_noted(
    partial: PartialFile, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []

    def note(descriptor: int) -> None:
        is_the_file = os.path.samestat(os.fstat(descriptor), partial.path.stat())
        synced.append(is_the_file and not partial.present())

    monkeypatch.setattr("os.fsync", note)
    arrived = arrive(partial, whole, "a")
    assert synced == [True]
    assert partial.present() == [arrived]


def test_a_note_that_was_cut_off_is_not_counted(partial: PartialFile, whole: Path) -> None:
    arrived = arrive(partial, whole, "a")
    notes = partial.path.with_name("model.safetensors.ranges")
    for rest in ("[400", "[400, 4", "[400, 408]"):
        notes.write_text(f"{json.dumps(arrived)}\n{rest}")
        assert partial.present() == [arrived]


@pytest.mark.parametrize("damage", ["deleted", "shortened"])
def test_notes_of_a_file_that_is_gone_are_forgotten(damage: str, partial: PartialFile, whole: Path) -> None:
    arrive(partial, whole, "a")
    if damage == "deleted":
        partial.path.unlink()
    else:
        os.truncate(partial.path, 9)
    assert partial.present() == []
    with partial.filling():
        pass
    assert partial.present() == []


def test_what_has_not_arrived_cannot_be_read(partial: PartialFile, whole: Path) -> None:
    arrive(partial, whole, "a")
    shard = open_partial_shard(partial.path, frozenset({"a"}))
    assert torch.equal(shard.read("a"), torch.ones(4)) and shard.offset("a") is not None
    assert shard.shape("b") == (4,), "the header is there"
    for use in (shard.read, shard.offset):
        with pytest.raises(CheckpointError, match="b has not been downloaded"):
            use("b")
