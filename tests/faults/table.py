"""Write docs/reliability.md: what may go wrong, what is promised then, and the test that shows it.

    python -m tests.faults.table

Each test in this folder begins with a docstring such as ``Fault: a full disk. Promise: the old file is whole.`` The page is
made of these, so that it promises nothing that is not tested; tests/faults/test_table.py compares them.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "reliability.md"
_PROMISE = re.compile(r"Fault: (?P<fault>.+?)\. Promise: (?P<promise>.+?)\.?", re.DOTALL)
_HEADER = """\
# When something goes wrong

Each row is a test of the suite with real files, processes, signals or a local hub: the fault, the promise, and the test that
shows it. The page is made of the tests' own words by `python -m tests.faults.table`, so that it promises nothing that is not
tested.

Errors are one sentence on the terminal and exit status 2. A run that is stopped ends with 128 and the signal's number: 130
after Ctrl+C, 143 after SIGTERM. Files and folders are written whole or not at all. [SECURITY.md](../SECURITY.md) says what is
trusted and what is not.
"""


@dataclass(frozen=True)
class Promise:
    """What one test shows.

    Attributes:
        topic: the first sentence of its file.
        fault: what goes wrong.
        promise: what happens then.
        test: the test's name, ``file::function``.
    """

    topic: str
    fault: str
    promise: str
    test: str


def read_promises() -> list[Promise]:
    """Return the promises of all tests in this folder.

    Raises:
        ValueError: a test's docstring does not say both.
    """
    promises = []
    for path in sorted(FOLDER.glob("test_*.py")):
        if path.name == "test_table.py":
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        topic = _one_line(ast.get_docstring(module) or path.stem).split(". ")[0].rstrip(".")
        for function in ast.walk(module):
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            test = f"{path.name}::{function.name}"
            match = _PROMISE.fullmatch(_one_line(ast.get_docstring(function) or ""))
            if match is None:
                raise ValueError(f'{test} does not begin with """Fault: ... Promise: ..."""')
            promises.append(Promise(topic, match["fault"], match["promise"], test))
    return promises


def page() -> str:
    """Return the page's text."""
    lines = [_HEADER]
    topic = ""
    for promise in read_promises():
        if promise.topic != topic:
            topic = promise.topic
            lines.append(f"## {topic}\n\n| fault | promise | test |\n|---|---|---|")
        lines.append(f"| {_cell(promise.fault)} | {_cell(promise.promise)} | `{promise.test}` |")
    return re.sub(r"(?<=\|)\n## ", "\n\n## ", "\n".join(lines)) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
