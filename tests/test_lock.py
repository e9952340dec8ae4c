"""The lock files pin what the constraints say, each file by its hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.lock import (
    CONSTRAINTS,
    CUDA_LOCK,
    LOCK,
    ROOT,
    SPLITFED_CONSTRAINTS,
    SPLITFED_LOCK,
    hashes_of,
    normalise,
    read_entries,
    version_of,
)


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    return read_entries(LOCK.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("constraints", "path"), [(CONSTRAINTS, LOCK), (SPLITFED_CONSTRAINTS, SPLITFED_LOCK)])
def test_every_tested_version_is_locked(constraints: str, path: Path) -> None:
    locked = read_entries(path.read_text(encoding="utf-8"))
    lines = (ROOT / constraints).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len(pins) > 90
    tested = {normalise(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert {name: version_of(locked[name]) if name in locked else "not locked" for name in tested} == tested


@pytest.mark.parametrize("path", [LOCK, CUDA_LOCK, SPLITFED_LOCK], ids=lambda path: path.name)
def test_every_file_is_known_by_its_hash(path: Path) -> None:
    entries = read_entries(path.read_text(encoding="utf-8"))
    assert len(entries) > 10
    assert [name for name, entry in entries.items() if not hashes_of(entry)] == []


def test_the_cpu_wheel_and_the_registry_s_are_both_listed(locked: dict[str, str]) -> None:
    cpu_wheels = set(re.findall(r"^# PyTorch's CPU wheel has (sha256:\w+)$", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    hashes = set(hashes_of(locked["torch"]))
    assert cpu_wheels
    assert cpu_wheels < hashes
    assert "+" not in version_of(locked["torch"])


def test_cuda_s_libraries_are_apart(locked: dict[str, str]) -> None:
    cuda = read_entries(CUDA_LOCK.read_text(encoding="utf-8"))
    assert not cuda.keys() & locked.keys()
    assert any(name.startswith("nvidia-") for name in cuda)
    assert not any(name.startswith("nvidia-") for name in locked)


def test_splitfed_has_the_same_pytorch(locked: dict[str, str]) -> None:
    # So CUDA's libraries are those of the other environment.
    assert read_entries(SPLITFED_LOCK.read_text(encoding="utf-8"))["torch"] == locked["torch"]
