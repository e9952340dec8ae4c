"""Imports follow docs/architecture.md: down the floors, without cycles, and through a package's face."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "splitlearn"
FLOORS_DOC = "docs/architecture.md"
# For users: they name what is public, and nothing inside the package imports them.
FOR_USERS = {"splitlearn", "splitlearn.utils", "splitlearn.__main__"}
# Modules that other packages import past the package's face, each with its reason.
PAST_THE_FACE: dict[str, str] = {}
# Units that answer at once: importing them must not import a library that takes seconds.
QUICK = ("cli", "cut", "files", "memory", "report", "rounds", "runs", "settings", "terminal")
SLOW_LIBRARIES = {"bitsandbytes", "datasets", "lightning", "peft", "torch", "torchao", "transformers"}


@dataclass(frozen=True)
class Import:
    """One import statement's target as a module would see it.

    Args:
        importer: the importing module.
        line: where.
        target: the imported module.
        name: what is taken from it; None for ``import target``.
        when_loaded: whether it runs as the importing module is loaded, rather than in a function or for the type checker.
    """

    importer: str
    line: int
    target: str
    name: str | None
    when_loaded: bool

    def __str__(self) -> str:
        what = f"import {self.target}" if self.name is None else f"from {self.target} import {self.name}"
        return f"{_file_of(self.importer).relative_to(ROOT)}:{self.line}: {what}"


def _module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def modules() -> dict[str, Path]:
    return {_module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _statements(node: ast.AST, when_loaded: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, when_loaded
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from _statements(child, when_loaded=False)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _statements(child, when_loaded and not is_function)


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    for statement, when_loaded in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(module, statement.lineno, alias.name, None, when_loaded)
            continue
        assert statement.level == 0, f"{path}:{statement.lineno}: write the import in full, not relative to the package"
        for alias in statement.names:
            source = str(statement.module)
            submodule = f"{source}.{alias.name}"
            # A package may export a function that is named like the module that holds it; then the function is meant.
            if submodule in modules() and alias.name not in exported_by(source):
                yield Import(module, statement.lineno, submodule, None, when_loaded)
            else:
                yield Import(module, statement.lineno, source, alias.name, when_loaded)


@cache
def exported_by(package: str) -> frozenset[str]:
    """The names that a package's ``__init__`` takes from its modules: its face."""
    path = _file_of(package)
    if package not in modules() or path.name != "__init__.py":
        return frozenset()
    statements = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return frozenset(alias.asname or alias.name for statement in statements for alias in statement.names)


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for module, path in modules().items() for found in _imports_of(module, path))


def own_imports() -> list[Import]:
    """Imports of this package's modules by its modules, without those for users."""
    return [entry for entry in imports() if entry.target.split(".")[0] == "splitlearn" and entry.importer not in FOR_USERS]


def unit_of(module: str) -> str:
    """The package or file right under ``splitlearn/`` that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def floors() -> dict[str, int]:
    """Read the floor plan of the documentation: for each unit its floor."""
    plan = {}
    for line in (ROOT / FLOORS_DOC).read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| (`[^|]*`) \| (\d) \|", line)
        if row:
            for place in re.findall(r"`([^`]+)`", row[1]):
                unit = place.removeprefix("splitlearn/").strip("/").removesuffix(".py")
                plan[unit] = int(row[2])
    return plan


def test_the_floor_plan_names_everything_there_is() -> None:
    there_are = {unit_of(module) for module in modules() if module not in FOR_USERS} | {"__main__"}
    assert set(floors()) == there_are, f"the floor plan of {FLOORS_DOC} and the folder splitlearn/ differ"


def test_imports_go_down_the_floors() -> None:
    plan = floors()
    wrong = []
    for entry in own_imports():
        above, below = unit_of(entry.importer), unit_of(entry.target)
        if below == "":
            wrong.append(f"{entry} (the package itself is for users)")
        elif above != below and plan[above] <= plan[below]:
            wrong.append(f"{entry} ({above} is on floor {plan[above]}, {below} on floor {plan[below]})")
    assert not wrong, "imports must go down the floors of " + FLOORS_DOC + ":\n" + "\n".join(wrong)


def test_what_is_for_users_is_not_imported_inside() -> None:
    wrong = [str(entry) for entry in own_imports() if entry.target in FOR_USERS]
    assert not wrong, "\n".join(wrong)


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return [str(node) for node in error.args[1]]
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for entry in own_imports():
        edges[entry.importer].add(entry.target)
    cycle = find_cycle(edges)
    assert not cycle, "these modules import one another: " + " -> ".join(cycle)


def test_no_package_imports_itself_by_way_of_others() -> None:
    edges: dict[str, set[str]] = {}
    for entry in own_imports():
        above, below = unit_of(entry.importer), unit_of(entry.target)
        if above != below:
            edges.setdefault(above, set()).add(below)
    cycle = find_cycle(edges)
    assert not cycle, "these packages import one another: " + " -> ".join(cycle)


def test_other_packages_are_imported_by_their_face() -> None:
    wrong = []
    for entry in own_imports():
        is_file_in_package = _file_of(entry.target).name != "__init__.py" and entry.target.count(".") > 1
        if unit_of(entry.importer) != unit_of(entry.target) and is_file_in_package and entry.target not in PAST_THE_FACE:
            face = entry.target.rpartition(".")[0]
            wrong.append(f"{entry} (import it from {face}; if it is not there yet, export it in {face}/__init__.py)")
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_still_needed() -> None:
    used = {entry.target for entry in own_imports() if unit_of(entry.importer) != unit_of(entry.target)}
    assert used >= set(PAST_THE_FACE), f"no longer imported past the face: {set(PAST_THE_FACE) - used}"


@cache
def loaded_by(module: str) -> frozenset[str]:
    """The modules that importing ``module`` imports, directly, with the packages that hold them."""
    targets = {entry.target for entry in imports() if entry.importer == module and entry.when_loaded}
    return frozenset(".".join(target.split(".")[: depth + 1]) for target in targets for depth in range(target.count(".") + 1))


def way_to_slow_library(start: str) -> list[str]:
    """Return the modules from ``start`` to one of a slow library, each imported by the one before; empty if there is none."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop(0)
        for target in sorted(loaded_by(way[-1]) - seen):
            if target.split(".")[0] in SLOW_LIBRARIES:
                return [*way, target]
            seen.add(target)
            if target in modules():
                ways.append([*way, target])
    return []


@pytest.mark.parametrize("unit", QUICK)
def test_some_units_import_no_slow_library(unit: str) -> None:
    for module in modules():
        if unit_of(module) == unit:
            way = way_to_slow_library(module)
            assert not way, f"{unit} must not import a library that takes seconds: " + " imports ".join(way)


@pytest.mark.parametrize("side", ["client_app", "server_app"])
def test_the_apps_of_rounds_have_neither_data_nor_a_model(side: str) -> None:
    todo, seen = [f"splitlearn.rounds.{side}"], set()
    while todo:
        module = todo.pop()
        seen.add(module)
        # In a function too: what an app does not import at all, it cannot hold.
        targets = {entry.target for entry in imports() if entry.importer == module and entry.target in modules()}
        todo += sorted(targets - seen)
    units = {unit_of(module) for module in seen} - {""}
    assert units <= {"rounds", "files", "naming"}, f"{side} must import neither data nor models, but imports {sorted(units)}"
