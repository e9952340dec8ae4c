"""Files around the package that name the same things: hooks, citation, issue forms, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_hooks_run_what_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint is not None
    commands = {line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in lint[1].splitlines()}
    hooks = [hook for repository in read_yaml(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks} == commands


def test_the_citation_is_of_this_release() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    project = PROJECT["project"]
    assert (citation["title"], str(citation["version"])) == (project["name"], project["version"])
    assert (citation["license"], citation["keywords"]) == (project["license"], project["keywords"])
    assert {"cff-version", "message", "authors", "type"} <= citation.keys()


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_are_what_github_takes(path: Path) -> None:
    form = read_yaml(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_there_are_a_form_for_bugs_and_one_for_features() -> None:
    assert {path.stem for path in FORMS} == {"bug", "feature", "config"}


def test_the_oldest_versions_are_in_the_project_file() -> None:
    """``tests/oldest.sh`` reads them there."""
    dependencies = PROJECT["project"]["dependencies"]
    assert all(any(re.match(rf"{name}>=[\d.]+", entry) for entry in dependencies) for name in ("torch", "transformers"))
