"""Disks that are full, files that may not grow, folders that may not be written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from splitlearn.checkpoint import prepare_checkpoint, write_torch_file
from splitlearn.checkpoint.partial_file import PartialFile
from splitlearn.checkpoint.tensor_file import write_tensor_file
from splitlearn.files import WriteError, whole_folder, write_text, writing
from tests.faults.processes import Ended, run, run_command

# In kibibytes: room for an old file beside a part of the new one.
ROOM, NEW = 400, 600


def write_folder(path: Path) -> None:
    with whole_folder(path.parent / "folder") as folder:
        (folder / "a").write_text("a" * NEW * 1024)


WRITES = {
    "a checkpoint": lambda path: write_torch_file(path, {"epoch": 1, "tensors": [torch.zeros(NEW * 256)]}),
    "tensors": lambda path: write_tensor_file({"a": torch.zeros(NEW * 256)}, path),
    "a text": lambda path: write_text(path, "a" * NEW * 1024),
    "a folder": write_folder,
}
HOW_TOLD = pytest.mark.parametrize("is_known", [True, False], ids=["told before", "told by the system"])


def write(kind: str, path: Path, is_known: bool, limit: int | None = None) -> Ended:
    """Write in a process of its own over an old file, and return what it raised."""

    def work() -> None:
        if not is_known:
            vars(writing)["check_room"] = lambda *args, **more: None
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            WRITES[kind](path)
        except OSError as error:
            print(type(error).__name__, error)

    path.write_text("old")
    return run(work)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@HOW_TOLD
@pytest.mark.parametrize("kind", WRITES)
def test_a_file_that_may_not_grow_leaves_the_old_one(kind: str, is_known: bool, tmp_path: Path) -> None:
    """Fault: a limit on the size of files. Promise: one sentence with the path; the old file whole, nothing half-written."""
    ended = write(kind, tmp_path / "file", is_known, ROOM * 1024)
    name = "folder" if kind == "a folder" else "file"
    assert ended.text.startswith(f"WriteError {tmp_path / name} cannot be written (File too large)")
    assert ended.text.count("\n") == 1 and content(tmp_path) == {"file": "old"}
    if kind in ("a checkpoint", "tensors"):
        assert ended.text.endswith("; 0.59 MiB are needed\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, where that can be had."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@HOW_TOLD
@pytest.mark.parametrize("kind", WRITES)
def test_a_full_disk_leaves_the_old_file(kind: str, is_known: bool, small_disk: Path) -> None:
    """Fault: a full disk. Promise: one sentence with path and bytes needed; the old file whole, nothing half-written."""
    ended = write(kind, small_disk / "file", is_known)
    name = "folder" if kind == "a folder" else "file"
    assert ended.text.startswith(f"WriteError {small_disk / name} cannot be written (No space left on device)")
    assert ended.text.count("\n") == 1 and content(small_disk) == {"file": "old"}
    if kind in ("a checkpoint", "tensors"):
        assert "; 0.59 MiB are needed and 0.3" in ended.text


def test_a_download_that_finds_no_room(tmp_path: Path) -> None:
    """Fault: a file of the hub does not fit. Promise: one sentence with the path; the next try goes on where this one ended."""
    header = b'{"a":{"dtype":"F32","shape":[250],"data_offsets":[0,1000]}}'
    file = PartialFile(tmp_path / "file")
    file.keep_header(header, 8 + len(header) + 1000)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        try:
            with file.filling():
                pass
        except WriteError as error:
            print(error)

    assert run(work).text == f"{tmp_path / 'file'} cannot be written (File too large)\n"
    with file.filling():
        assert file.missing([(0, 1000)]) == [(0, 1000)]


def test_a_checkpoint_is_not_prepared_where_it_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a disk without room for a prepared checkpoint. Promise: one sentence before anything is written."""
    write_tensor_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    write_text(tmp_path / "config.json", "{}")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2**40, free=3000))
    with pytest.raises(WriteError, match=r"out cannot be written \(No space left on device\); 0\.00 MiB are needed"):
        prepare_checkpoint(tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


TINY = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "trainer.max_steps=2"]
TINY += ["trainer.enable_progress_bar=false", "verbose=false"]


def test_a_run_whose_checkpoints_are_too_large_is_refused_before_it_trains(tmp_path: Path) -> None:
    """Fault: checkpoints larger than files may be. Promise: one sentence with path and bytes, before weights are read."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7))

    ended = run_command("train", *TINY, f"hydra.run.dir={tmp_path}", prepare=limit)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert ended.status == 2
    assert ended.text.endswith(f"error: {path} cannot be written (File too large); 21.05 MiB are needed\n")
    assert "Traceback" not in ended.text and not path.exists() and not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("name", ["checkpoints", "parts"])
def test_a_run_whose_folders_cannot_be_written_is_refused_before_it_trains(name: str, tmp_path: Path) -> None:
    """Fault: a folder of the run that its user may not write. Promise: one sentence with the path, before weights are read."""
    (tmp_path / name).mkdir(mode=0o555)
    if os.access(tmp_path / name, os.W_OK):
        # Root may write everywhere but on a file system that is read-only.
        command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / name)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("this user may write everywhere")
    try:
        ended = run_command("train", *TINY, f"hydra.run.dir={tmp_path}")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / name)], capture_output=True)
    assert ended.status == 2 and "Traceback" not in ended.text
    assert f"error: {tmp_path / name} cannot be written (" in ended.text.splitlines()[-1]
    assert not (tmp_path / "metrics").exists()
