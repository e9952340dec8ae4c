"""Every internal of another library that the package uses stands in one of the tables beside this file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.internals.relied_upon import internals_used

# Private names that this library puts on objects of others, and names that look private and are not.
OTHER_NAMES = {
    "_is_hf_initialized": "set on parameters; what transformers does with it is tested in test_transformers.py",
    "_exit": "of os; Python documents it",
    "_passage": "set on modules by splitlearn/model/passage.py",
}


def listed() -> set[str]:
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    tables = [import_module(f"tests.internals.{path.stem}") for path in files if path.stem != Path(__file__).stem]
    return {internal.name for table in tables for internal in table.INTERNALS}


def test_what_is_used_is_listed() -> None:
    used = internals_used()
    missing = {name: files for name, files in used.items() if name not in listed() | set(OTHER_NAMES)}
    assert not missing, "\n".join(
        f"{name} of {', '.join(files)} is not public; use what is, or list it in tests/internals with its purpose"
        for name, files in sorted(missing.items())
    )


def test_exceptions_are_still_needed() -> None:
    assert set(OTHER_NAMES) <= set(internals_used())
