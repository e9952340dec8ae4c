"""What the system said is found in the errors of every library."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from splitlearn.files import ReadError, refusal_to_read, system_error_of


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EMFILE, "Too many open files"), errno.EMFILE),
        (RuntimeError("unable to mmap 99 bytes from file <a.pt>: Cannot allocate memory (12)"), errno.ENOMEM),
        (RuntimeError("can't allocate memory: you tried 99 bytes. Error code 12 (Cannot allocate memory)"), errno.ENOMEM),
        (MemoryError("Cannot allocate memory (os error 12)"), errno.ENOMEM),
        (MemoryError(), errno.ENOMEM),
        (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("mat1 and mat2 cannot be multiplied (12)"), None),
        (ValueError("no"), None),
    ],
)
def test_the_systems_error_is_found(error: Exception, number: int | None) -> None:
    assert system_error_of(error) == number
    passed_on = RuntimeError("passed on")
    passed_on.__context__ = error
    assert system_error_of(passed_on) == number


def test_damage_is_no_refusal(tmp_path: Path) -> None:
    assert refusal_to_read(tmp_path / "a", RuntimeError("invalid header")) is None
    refusal = refusal_to_read(tmp_path / "a", PermissionError(errno.EACCES, "Permission denied"))
    assert isinstance(refusal, ReadError)
    assert refusal.errno == errno.EACCES
    assert str(refusal) == f"{tmp_path / 'a'} cannot be read (Permission denied); give its reader the permission"
