"""One run at a time in a folder: who comes second is told who is there, and a lock ends with its process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from splitlearn.runs import HOLDER_FILE, LOCK_FILE, find_holder, hold_run_folder
from splitlearn.runs import lock as lock_module

HOLD = """
import sys, time
from pathlib import Path
from splitlearn.runs import hold_run_folder
with hold_run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def _start_holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = _start_holder(tmp_path)
    try:
        told = f"{tmp_path} is in use by another run, process {first.pid} on {socket.gethostname()}; wait for its end"
        with pytest.raises(ValueError) as error, hold_run_folder(tmp_path):
            pytest.fail("two runs hold one folder")
        assert told in str(error.value)
    finally:
        first.kill()
        first.communicate()


def test_the_lock_of_a_killed_process_is_gone_at_once(tmp_path: Path) -> None:
    first = _start_holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / HOLDER_FILE).is_file() and find_holder(tmp_path) is None
    began_s = time.monotonic()
    with hold_run_folder(tmp_path):
        assert time.monotonic() - began_s < 1.0
        holder = find_holder(tmp_path)
        assert holder is not None and holder.process == os.getpid()


def test_one_process_holds_a_folder_once_and_lets_it_go(tmp_path: Path) -> None:
    with hold_run_folder(tmp_path), pytest.raises(ValueError, match="in use"), hold_run_folder(tmp_path):
        pytest.fail("two runs hold one folder")
    with pytest.raises(KeyboardInterrupt), hold_run_folder(tmp_path):
        raise KeyboardInterrupt
    with hold_run_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {LOCK_FILE}


def test_a_lock_without_a_live_holder_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers of a killed run hold its lock until they notice.
    workers = filelock.FileLock(tmp_path / LOCK_FILE)
    workers.acquire()
    (tmp_path / HOLDER_FILE).write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "started_s": 1.0}))
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            workers.release()

    monkeypatch.setattr(lock_module.time, "sleep", pause)
    with hold_run_folder(tmp_path):
        assert len(pauses) == 3


def test_a_lock_that_nobody_named_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_PATIENCE_S", 0.0)
    told = pytest.raises(ValueError, match="by another run, another process")
    with filelock.FileLock(tmp_path / LOCK_FILE), told, hold_run_folder(tmp_path):
        pytest.fail("two runs hold one folder")


def test_of_other_machines_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / HOLDER_FILE).write_text(json.dumps({"process": 1, "host": "elsewhere", "started_s": 1.0}))
    assert str(find_holder(tmp_path)) == "process 1 on elsewhere"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"process": null}', "\xff"])
def test_a_damaged_holder_file_names_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / HOLDER_FILE).write_text(content, encoding="latin-1")
    assert find_holder(tmp_path) is None
    with hold_run_folder(tmp_path):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_is_warned_of(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match=r"has no locks, so a second run"), hold_run_folder(tmp_path):
        pass


def test_a_lock_file_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(ValueError, match=r"cannot be locked \(Permission denied\); choose another"), hold_run_folder(tmp_path):
        pass


def test_the_lock_file_has_the_mode_that_the_mask_gives(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with hold_run_folder(tmp_path):
            assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o664
            assert (tmp_path / HOLDER_FILE).stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)
