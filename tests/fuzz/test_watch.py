"""The fuzzer sees each promise that is broken."""

from __future__ import annotations

import mmap
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from splitlearn.checkpoint import CheckpointError
from tests.fuzz import watch
from tests.fuzz.watch import BrokenPromiseError, keep_promises


def fail(error: Exception) -> Callable[[], None]:
    def read() -> None:
        raise error

    return read


def test_a_documented_error_that_names_the_file(tmp_path: Path) -> None:
    assert keep_promises(lambda: None, tmp_path, "a.json") is None
    assert keep_promises(fail(CheckpointError("a.json is damaged")), tmp_path, "a.json") == "a.json is damaged"


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (KeyError("a.json"), "KeyError is not documented"),
        (MemoryError(), "MemoryError is not documented"),
        (ValueError("something is wrong"), r"does not name a\.json"),
        (ValueError(""), "has 0 letters"),
    ],
)
def test_errors_that_are_none(tmp_path: Path, error: Exception, problem: str) -> None:
    with pytest.raises(BrokenPromiseError, match=problem):
        keep_promises(fail(error), tmp_path, "a.json")


def test_what_lies_outside(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link").symlink_to(outside)
    (inside / "own").write_text("own")
    assert keep_promises((inside / "own").read_text, inside, "own") is None
    for read in (
        outside.read_text,
        (inside / "link").read_text,
        (inside / "../out").read_text,
        lambda: list(tmp_path.iterdir()),
    ):
        with pytest.raises(BrokenPromiseError, match="outside of its folder"):
            keep_promises(read, inside, "own")
    outside.read_text()


def test_programs_and_addresses(tmp_path: Path) -> None:
    with pytest.raises(BrokenPromiseError, match=r"subprocess\.Popen"):
        keep_promises(lambda: subprocess.run([sys.executable, "-c", ""], check=True), tmp_path, "own")
    with pytest.raises(BrokenPromiseError, match=r"socket\.getaddrinfo"):
        keep_promises(lambda: socket.getaddrinfo("localhost", 1), tmp_path, "own")


def test_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_DEADLINE_S", 0.2)
    with pytest.raises(BrokenPromiseError, match="did not end"):
        keep_promises(lambda: time.sleep(5), tmp_path, "own")
    monkeypatch.setattr(watch, "MAX_CPU_S", -1.0)
    with pytest.raises(BrokenPromiseError, match="it took 0 seconds"):
        keep_promises(lambda: None, tmp_path, "own")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound a process's memory")
def test_memory_that_a_process_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(BrokenPromiseError, match=r"OSError is not documented.*memory"):
        keep_promises(lambda: mmap.mmap(-1, 2**33), tmp_path, "own")
    mmap.mmap(-1, 2**33).close()


def test_memory_that_an_input_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_peak_bytes", iter([2**20, 2**28, 2**28]).__next__)
    with pytest.raises(BrokenPromiseError, match="it took 255 MiB"):
        keep_promises(lambda: None, tmp_path, "own")
