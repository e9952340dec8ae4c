"""Files and folders are written whole or not at all, reach the disk, and have ordinary permissions."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitlearn.checkpoint import write_torch_file
from splitlearn.checkpoint.partial_file import PartialFile
from splitlearn.checkpoint.tensor_file import write_tensor_file
from splitlearn.files import WriteError, whole_file, whole_folder, write_json, write_text

ERRORS = [ValueError, OSError, KeyboardInterrupt, SystemExit]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Inode and size of everything that is synced, in order."""
    calls: list[tuple[int, int]] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append((status.st_ino, status.st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


@pytest.fixture(params=[0o022, 0o077, 0o002])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as temporary:
        assert path.parent in temporary.parents, "a rename is all or nothing within one file system only"
        temporary.write_text("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_fails_in_the_middle_changes_nothing(error: type[BaseException], is_there: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    if is_there:
        path.write_text("old")
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_text("hal")
        raise error
    assert names(tmp_path) == (["file.txt"] if is_there else [])
    assert not is_there or path.read_text() == "old"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_file_that_fails_at_the_end_changes_nothing(
    error: type[BaseException], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.txt").write_text("old")

    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "replace")}[step], fails)
    with pytest.raises(error):
        write_text(tmp_path / "file.txt", "new")
    assert names(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_text() == "old"


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, synced: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "file.txt", Path.replace

    def renames(source: Path, target: Path) -> Path:
        assert synced == [(source.stat().st_ino, 7)], "the whole content first"
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", renames)
    write_text(path, "content")
    assert [inode for inode, _ in synced] == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_folders_that_cannot_be_synced_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "invalid argument")

    monkeypatch.setattr(os, "fsync", refuses_folders)
    assert write_text(tmp_path / "file.txt", "content").read_text() == "content"

    def refuses_all(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "invalid argument")

    monkeypatch.setattr(os, "fsync", refuses_all)
    with pytest.raises(OSError, match="invalid argument"):
        write_text(tmp_path / "file.txt", "other")
    assert (tmp_path / "file.txt").read_text() == "content"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, temporaries = tmp_path / "file.txt", []
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        temporaries = [first, second]
        assert path.read_text() == "second"
    assert path.read_text() == "first" and len(set(temporaries)) == 2 and names(tmp_path) == ["file.txt"]


def test_permissions_are_the_users(tmp_path: Path, mask: int) -> None:
    """Some writers make files that only their owner may read."""
    write_text(tmp_path / "text", "a")
    write_json(tmp_path / "json", {})
    write_torch_file(tmp_path / "torch", {})
    write_tensor_file({"a": torch.zeros(2)}, tmp_path / "tensors")
    with whole_file(tmp_path / "own") as temporary:
        save_file({"a": torch.zeros(2)}, temporary)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path.name
    with whole_folder(tmp_path / "folder") as temporary:
        write_text(temporary / "text", "a")
        # As safetensors does it in transformers' save_pretrained, and as copies are of a file that nobody may write.
        save_file({"a": torch.zeros(2)}, temporary / "tensors")
        (temporary / "inner").mkdir(mode=0o700)
        (temporary / "inner" / "copy").touch(mode=0o400)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
    for path in (tmp_path / "folder").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path.name


def test_a_folder_appears_when_it_is_whole(tmp_path: Path, synced: list[tuple[int, int]]) -> None:
    path = tmp_path / "above" / "folder"
    with whole_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("a")
        (temporary / "file").write_text("ab")
        assert not path.exists() and not synced
    content = [path / "inner" / "file", path / "inner", path / "file", path]
    inodes = [inode for inode, _ in synced]
    assert sorted(inodes[:-1]) == sorted(entry.stat().st_ino for entry in content)
    assert inodes[-1] == path.parent.stat().st_ino, "the folder's name comes last"
    assert names(path.parent) == ["folder"] and names(path) == ["file", "inner"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_folder_that_fails_in_the_middle_changes_nothing(error: type[BaseException], exist_ok: bool, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    if exist_ok:
        write_text(path / "file", "old")
    with pytest.raises(error), whole_folder(path, exist_ok) as temporary:
        write_text(temporary / "file", "new")
        raise error
    assert names(tmp_path) == (["folder"] if exist_ok else [])
    assert not exist_ok or (path / "file").read_text() == "old"


@pytest.mark.parametrize("content", ["nothing", "a file in it", "a file in its place"])
def test_a_folder_that_appeared_meanwhile_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with (
        pytest.raises(FileExistsError, match=r"^/.* exists already: another process has made it"),
        whole_folder(path) as temporary,
    ):
        write_text(temporary / "file", "new")
        if content == "a file in its place":
            path.write_text("other")
        else:
            path.mkdir()
            if content == "a file in it":
                write_text(path / "file", "other")
    assert names(tmp_path) == ["folder"]
    assert path.is_file() or names(path) == (["file"] if content == "a file in it" else [])


def test_a_folder_may_be_written_over_file_by_file(tmp_path: Path, synced: list[tuple[int, int]]) -> None:
    path = tmp_path / "folder"
    write_text(path / "own.txt", "somebody's own")
    write_text(path / "file", "old")
    synced.clear()
    with whole_folder(path, exist_ok=True) as temporary:
        (temporary / "file").write_text("new")
        (temporary / "other").write_text("other")
        assert (path / "file").read_text() == "old"
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == {
        "own.txt": "somebody's own",
        "file": "new",
        "other": "other",
    }
    assert synced[-1][0] == path.stat().st_ino and names(tmp_path) == ["folder"]


def test_json_holds_what_json_can(tmp_path: Path) -> None:
    content = {"a": float("nan"), "b": [float("inf"), (1, float("-inf"))], "ü": "größer"}
    text = write_json(tmp_path / "file.json", content).read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, [1, None]], "ü": "größer"}
    assert "größer" in text and text.endswith("}\n")
    # A file name with bytes that are no UTF-8.
    name = os.fsdecode(b"a\xff")
    write_json(tmp_path / "file.json", {"name": name})
    assert json.loads((tmp_path / "file.json").read_bytes()) == {"name": name}
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "file.json", {"name": Path("a")})
    assert json.loads((tmp_path / "file.json").read_bytes()) == {"name": name}


def test_torch_files_are_alike_if_their_content_is(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        write_torch_file(tmp_path / name, {"weight": torch.arange(4)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_full_disk_leaves_the_old_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_tensor_file({"a": torch.ones(2)}, path)

    def is_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(
        WriteError, match=r"a\.safetensors cannot be written \(No space left on device\); 0\.00 MiB are needed and .* free"
    ):
        write_tensor_file({"a": torch.zeros(2)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(2)) and names(tmp_path) == ["a.safetensors"]


def test_threads_may_keep_the_header_of_one_file(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = PartialFile(tmp_path / "file")
    errors: list[BaseException] = []

    def keep() -> None:
        try:
            for _ in range(20):
                file.keep_header(header, 8 + len(header) + 4)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and names(tmp_path) == ["file.header"]
