"""Mutants are applied to a copy, and survivors are told from those that a test notices."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import Mutant, MutantError, main, read_mutants

CODE = "def double(number):\n    return 2 * number\n"
TEST = "from package import double\n\n\ndef test_double():\n    assert double(2) == 4\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project with one function and one test, whose mutants are read in place of this one's."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "package.py").write_text(CODE)
    (root / "test_package.py").write_text(TEST)
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "_COPIED", ("package.py", "test_package.py"))
    # This project's tests need none of the large libraries.
    monkeypatch.setattr(mutants, "_PRELOADED", ("pytest",))
    return root


def choose(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """Have the list consist of one mutant for each new text, named after it."""
    made = [Mutant(name, "package.py", "2 * number", new, ("test_package.py",), "why") for name, new in changes.items()]
    monkeypatch.setattr(mutants, "read_mutants", lambda: made)


def test_every_mutant_can_be_applied(tmp_path: Path) -> None:
    """So that whoever changes the code sees at once which mutant has to follow."""
    made = read_mutants()
    assert len(made) >= 95
    mutants._check_matches(mutants.ROOT, made)
    missing = {test for mutant in made for test in mutant.tests if not (mutants.ROOT / test.split("::")[0]).is_file()}
    assert not missing


def test_the_copy_has_every_package_that_the_mutants_tests_import() -> None:
    packages = {path.parent.name for path in mutants.ROOT.glob("*/__init__.py")}
    packages |= {"hydra_plugins"}
    files = {test.split("::")[0] for mutant in read_mutants() for test in mutant.tests}
    trees = [ast.parse((mutants.ROOT / file).read_text(encoding="utf-8")) for file in files]
    froms = {node.module or "" for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported = {name.split(".")[0] for name in froms | names} & packages
    assert {"splitlearn", "tests", "benchmarks"} <= imported <= set(mutants._COPIED)


def test_survivors_are_named(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    choose(monkeypatch, square="number * number", triple="3 * number")
    assert main([]) == 1
    shown = capsys.readouterr().out
    assert "SURVIVED  square" in shown and "killed    triple" in shown
    assert "1 of 2 mutants survived" in shown and "  square in package.py: why\n" in shown
    assert (project / "package.py").read_text() == CODE
    assert main(["trip"]) == 0


@pytest.mark.usefixtures("project")
def test_mutants_that_say_nothing_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    choose(monkeypatch, square="number * number")
    assert main(["absent"]) == 2
    assert "no mutant's name contains absent" in capsys.readouterr().err
    made = [Mutant(name, "package.py", name, "", ("test_package.py",), "") for name in ("triple", "number")]
    monkeypatch.setattr(mutants, "read_mutants", lambda: made)
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert "triple: the old text is 0 times in package.py" in shown
    assert "number: the old text is 2 times in package.py" in shown


def test_tests_that_fail_anyway_are_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "test_package.py").write_text(TEST.replace("== 4", "== 5"))
    choose(monkeypatch, square="number * number")
    assert main([]) == 2
    assert "the tests fail without any mutant" in capsys.readouterr().err


def test_a_list_with_two_of_one_name_is_refused(tmp_path: Path) -> None:
    entry = '[[mutants]]\nname = "one"\nfile = "a.py"\nold = "1"\nnew = "2"\ntests = ["b.py"]\nwhy = ""\n'
    (tmp_path / "list.toml").write_text(entry * 2)
    with pytest.raises(MutantError, match="two mutants are called one"):
        read_mutants(tmp_path / "list.toml")
