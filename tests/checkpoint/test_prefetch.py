"""What is on a network file system is read ahead, if it fits into memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from splitlearn.checkpoint.prefetch import is_on_network, prefetch


def mount(monkeypatch: pytest.MonkeyPatch, **types: str) -> None:
    mounts = [SimpleNamespace(mountpoint="/", fstype="ext4")]
    mounts += [SimpleNamespace(mountpoint=f"/{name}", fstype=kind) for name, kind in types.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)


def test_the_mount_a_file_is_under_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, mnt_a="nfs4", mnt_ab="xfs", mnt_c="fuse.sshfs")
    assert is_on_network(Path("/mnt_a/model/x")) and is_on_network(Path("/mnt_c/x"))
    assert not is_on_network(Path("/mnt_ab/x")) and not is_on_network(Path("/home/x"))


def test_every_byte_of_the_ranges_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * 2**20))
    assert prefetch(path, [(5, 17 * 2**20), (18 * 2**20, 19 * 2**20)]) == 18 * 2**20 - 5


def test_what_does_not_fit_into_memory_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert prefetch(tmp_path / "file", [(0, 901)]) == 0
    assert prefetch(tmp_path / "file", [(0, 899)]) == 899
