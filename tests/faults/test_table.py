"""docs/reliability.md is what the tests of this folder say."""

from __future__ import annotations

from tests.faults.table import FOLDER, PAGE, page, read_promises


def test_the_page_is_of_the_tests_that_are_here() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.faults.table"


def test_every_file_of_faults_has_promises() -> None:
    files = {path.name for path in FOLDER.glob("test_*.py")} - {"test_table.py"}
    assert {promise.test.partition("::")[0] for promise in read_promises()} == files
