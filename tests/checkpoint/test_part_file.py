import os
from pathlib import Path

import pytest
import torch

from splitlearn.checkpoint import CheckpointError, read_part_file, write_part_file


def test_round_trip_is_mapped_and_equal(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16()}
    path = tmp_path / "new" / "bottom.pt"
    write_part_file(path, {"name": "bottom"}, tensors)
    description, read = read_part_file(path)
    assert description == {"name": "bottom"}
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)
    assert [file.name for file in path.parent.iterdir()] == ["bottom.pt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "top.pt"
    write_part_file(path, {"version": 1}, {})

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_part_file(path, {"version": 2}, {"a": torch.ones(9)})
    assert read_part_file(path)[0] == {"version": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["top.pt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "pickle", "other torch file"])
def test_files_that_are_no_part(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "part.pt"
    write_part_file(path, {}, {"a": torch.ones(1000)})
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "pickle":
        torch.save({"format": Evil()}, path)
    else:
        torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=str(path)):
        read_part_file(path)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_part_file(tmp_path / "bottom.pt")
