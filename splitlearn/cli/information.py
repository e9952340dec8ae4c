"""What commands tell of themselves: versions, and their settings with the comments that explain them."""

from __future__ import annotations

import re
import shutil
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from splitlearn.settings import conf_folder

_PACKAGES = ("splitlearn", "torch", "transformers", "lightning", "peft", "datasets")
# Where comments begin, and the narrowest and widest that the text becomes.
_COMMENT_COLUMN, _LEAST, _MOST = 31, 60, 100
_COMMENTED = re.compile(r"^(?P<setting>\s*[^#]*?)\s*#\s?(?P<comment>.*)$")
_PACKAGE_LINE = "# @package"


def print_version() -> None:
    """Print the versions of this package and of what it stands on."""
    for name in _PACKAGES:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} is not installed")


def print_help(command: str, overrides: list[str]) -> None:
    """Print a command's settings as its YAML files have them, comments and all.

    Args:
        command: such as ``"train"``.
        overrides: its arguments; choices of groups among them are shown instead of the defaults.
    """
    print(help_text(command, overrides, min(_MOST, max(_LEAST, shutil.get_terminal_size((80, 24)).columns))))


def help_text(command: str, overrides: list[str], columns: int = 80) -> str:
    """Return what `print_help` prints, in lines of at most ``columns`` characters where comments can be wrapped."""
    path = conf_folder() / f"{command}.yaml"
    entries = [entry for entry in _defaults(path) if isinstance(entry, dict)]
    chosen = dict(each.lstrip("+").partition("=")[::2] for each in overrides if "=" in each)
    groups = {group: default for entry in entries for group, default in entry.items() if not group.startswith("override ")}
    about = f"usage: python -m splitlearn {command} [NAME=VALUE ...]"
    if command == "generate":
        about += " [TEXT ...]"
    if command == "report":
        about += " FOLDER ..."
    lines = [about, ""]
    if groups:
        lines += ["choices, given as GROUP=CHOICE:", ""]
        for group, default in groups.items():
            names = ", ".join(sorted(file.stem for file in (conf_folder() / group).glob("*.yaml")))
            lines += _wrapped(f"  {group}={chosen.get(group, default) or 'null'}", names, columns)
        lines += [""]
    lines += ["settings, given as NAME=VALUE:", "", *_of_file(path, columns, ""), ""]
    for group, default in groups.items():
        choice = chosen.get(group, default)
        if choice is not None and (conf_folder() / group / f"{choice}.yaml").is_file():
            lines += [f"{group}={choice}, given as {group}.NAME=VALUE:", "", *_of_choice(group, choice, columns), ""]
    options = "options: -m runs a sweep (split.point_1=1,2,3); --cfg job prints the configuration; --version; -sc install=bash"
    lines += textwrap.wrap(options + " completes names in bash; --hydra-help tells of more.", columns)
    return "\n".join(lines)


def _defaults(path: Path) -> list[Any]:
    values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return list(values.get("defaults", []))


def _of_choice(group: str, choice: str, columns: int) -> list[str]:
    """Return a choice's settings, after those of the choices that it stands on."""
    path = conf_folder() / group / f"{choice}.yaml"
    lines: list[str] = []
    for entry in _defaults(path):
        if isinstance(entry, str) and entry != "_self_":
            lines += _of_choice(group, entry, columns)
    return [*lines, *_of_file(path, columns, "  ")]


def _of_file(path: Path, columns: int, indent: str) -> list[str]:
    """Return the lines of a YAML file without its defaults and what is Hydra's, comments wrapped."""
    lines: list[str] = []
    is_left_out = False
    for line in path.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            is_left_out = line.startswith(("defaults:", "hydra:"))
        if is_left_out or not line.strip() or line.startswith(_PACKAGE_LINE):
            continue
        if line.startswith("#"):
            lines += textwrap.wrap(line.lstrip("# "), columns - len(indent), initial_indent=indent, subsequent_indent=indent)
            continue
        match = _COMMENTED.match(line)
        setting, comment = (match["setting"], match["comment"]) if match else (line, "")
        lines += _wrapped(f"{indent or '  '}{setting}", comment, columns)
    return lines


def _wrapped(setting: str, comment: str, columns: int) -> list[str]:
    """Return a setting with its comment beside it, or below where there is no room."""
    if not comment:
        return [setting]
    text = textwrap.wrap(comment, columns - _COMMENT_COLUMN) or [""]
    below = " " * _COMMENT_COLUMN
    if len(setting) >= _COMMENT_COLUMN - 1:
        return [setting, *(f"{below}{each}" for each in text)]
    return [f"{setting:<{_COMMENT_COLUMN}}{text[0]}", *(f"{below}{each}" for each in text[1:])]
