"""Temporary folders of dead processes are told from those of living ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splitlearn.files import temporary
from splitlearn.files.temporary import LOCK_FILE, claim_folder, release_all_folders, release_folder, remove_leftovers


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leave(parent: Path, host: str = temporary._HOST) -> Path:
    """Make what a process leaves that is killed: the lock's file without a lock."""
    folder = parent / f".last.ckpt.{host}-{'0' * 32}.tmp"
    folder.mkdir()
    (folder / LOCK_FILE).touch()
    (folder / "last.ckpt").write_text("half")
    return folder


def test_a_folder_is_hidden_and_goes_when_it_is_released(tmp_path: Path) -> None:
    folder = claim_folder(tmp_path, "last.ckpt")
    assert folder.name.startswith(".last.ckpt.") and folder.name.endswith(".tmp") and names(folder) == [LOCK_FILE]
    (folder / "inner").mkdir()
    release_folder(folder)
    assert not folder.exists()
    release_folder(folder)


def test_whoever_makes_a_folder_removes_what_dead_processes_left(tmp_path: Path) -> None:
    leave(tmp_path)
    release_folder(claim_folder(tmp_path, "other"))
    assert names(tmp_path) == []


def test_folders_in_use_and_of_other_machines_and_files_of_other_origin_stay(tmp_path: Path) -> None:
    used = claim_folder(tmp_path, "used")
    away = leave(tmp_path, host="0123abcd")
    others = [tmp_path / f".a.{temporary._HOST}-{'0' * 31}.tmp", tmp_path / "a.tmp"]
    for path in others:
        path.mkdir()
    (tmp_path / f".file.{temporary._HOST}-{'1' * 32}.tmp").touch()
    (tmp_path / f".link.{temporary._HOST}-{'2' * 32}.tmp").symlink_to(away)
    before = names(tmp_path)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == before
    release_folder(used)


def test_a_folder_is_in_use_even_for_its_own_process(tmp_path: Path) -> None:
    used = claim_folder(tmp_path, "used")
    # As another thread or another copy of this module sees it.
    temporary._remove_if_dead(used)
    assert used.is_dir()
    release_folder(used)


def test_a_process_that_was_killed_before_it_locked_its_folder_leaves_nothing(tmp_path: Path) -> None:
    folder = leave(tmp_path)
    (folder / LOCK_FILE).unlink()
    remove_leftovers(tmp_path)
    assert folder.is_dir(), "there is something in it, so this was no process that had not locked it yet"
    (folder / "last.ckpt").unlink()
    remove_leftovers(tmp_path)
    assert not folder.exists()


def test_a_folder_that_is_taken_for_a_dead_ones_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = temporary.fcntl.flock
    taken: list[Path] = []

    def comes_late(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(next(tmp_path.iterdir()))
            (taken[0] / LOCK_FILE).unlink()
            taken[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(temporary.fcntl, "flock", comes_late)
    folder = claim_folder(tmp_path, "a")
    assert folder != taken[0] and folder.is_dir()
    release_folder(folder)


def test_a_file_system_without_locks_is_written_and_nothing_on_it_is_taken_for_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_none(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(temporary.fcntl, "flock", has_none)
    left = leave(tmp_path)
    release_folder(claim_folder(tmp_path, "a"))
    assert left.is_dir()


def test_a_forked_process_leaves_the_folders_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process keep folders of their own.
    monkeypatch.setattr(temporary, "_held", {})
    folder = claim_folder(tmp_path, "a")
    child = os.fork()
    if child == 0:
        release_all_folders()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.is_dir()
    release_all_folders()
    assert not folder.exists()


def test_long_names_are_cut(tmp_path: Path) -> None:
    folder = claim_folder(tmp_path, "ä" * 120)
    assert len(os.fsencode(folder.name)) <= 255
    release_folder(folder)
