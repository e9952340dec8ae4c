"""The fuzzer's seeds are files as this release writes them: otherwise it would try the first check of a file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitlearn.verification import verify_saved_files
from tests.fuzz.targets import TARGETS, Target, workshop


def test_seeds_are_read(tmp_path: Path) -> None:
    """Where this fails, the form of a file has changed: run ``python -m tests.fuzz.seeds``."""
    with workshop(tmp_path) as shop:
        problems = [outcome.problem for outcome in verify_saved_files(shop.folder / "run")]
    assert problems and not any(problems)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_kept_inputs_are_small(target: Target) -> None:
    assert all(path.stat().st_size <= 2**16 for path in target.kept)
