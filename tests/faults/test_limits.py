"""Limits of the process: too little memory, too few open files. Files that are whole are never called damaged."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from splitlearn.checkpoint import read_tensor_file
from splitlearn.checkpoint.shard import open_shard
from splitlearn.files import ReadError
from tests.faults.processes import run

_NUM_VALUES = 2**25


def _file(folder: Path, suffix: str) -> Path:
    path = folder / f"weights{suffix}"
    tensors = {"weight": torch.zeros(_NUM_VALUES)}
    if suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


def _read(read: Callable[[Path], object], path: Path) -> None:
    """Print what reading raises."""
    try:
        read(path)
    except ReadError as error:
        print(error)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_too_little_memory(tmp_path: Path, suffix: str) -> None:
    """Fault: the process may not map a file. Promise: one sentence that names the file and the limit, and not damage."""
    path = _file(tmp_path, suffix)

    def work() -> None:
        limit_bytes = psutil.Process().memory_info().vms + 2**25
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        _read(open_shard, path)

    ended = run(work)
    assert ended.status == 0, ended.text
    assert f"{path} cannot be read (Cannot allocate memory); there is too little memory" in ended.text
    assert "ulimit -v" in ended.text


@pytest.mark.parametrize(
    ("suffix", "read"),
    [(".bin", open_shard), (".safetensors", open_shard), (".safetensors", lambda path: read_tensor_file(path, ""))],
)
def test_too_few_files(tmp_path: Path, suffix: str, read: Callable[[Path], object]) -> None:
    """Fault: the process may not open another file. Promise: one sentence that names the file and the limit, and not damage."""
    path = _file(tmp_path, suffix)

    def work() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        last = os.open(os.devnull, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
        _read(read, path)

    ended = run(work)
    assert ended.status == 0, ended.text
    assert f"{path} cannot be read (Too many open files); raise the limit on open files (ulimit -n)" in ended.text
