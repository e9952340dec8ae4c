"""The configuration that a run leaves in its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from splitlearn.redaction import reason_of

CONFIG_FILE = "config.yaml"
# Where Hydra notes what was typed.
HYDRA_FOLDER = ".hydra"
OVERRIDES_FILE = "overrides.yaml"
_MAX_BYTES = 2**20
_MAX_DIGITS = 1_000
_MAX_DEPTH = 100
_DIGITS = re.compile(r"[-+]?[0-9a-fA-FxX_:.]+")


def read_run_config(folder: Path) -> dict[str, Any]:
    """Read the resolved configuration of a run as plain values.

    Nothing in it is interpolated: it was resolved when it was written. ``${...}`` in a text of it, such as a prompt template,
    stands for itself. Nothing that it names is imported.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: the file is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG_FILE}; name the folder of a run, such as outputs/DATE/TIME")
    try:
        values = _parse(path)
    except Exception as error:
        # PyYAML raises almost anything for a value that is not of its tag's kind, such as `!!int ''`.
        raise ValueError(f"{path} is damaged or no configuration of a run: {reason_of(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged or no configuration of a run: it holds no settings")
    return values


def read_run_overrides(folder: Path) -> list[str] | None:
    """Return the overrides that a run was started with, one for each setting that was typed.

    Returns:
        The overrides; None if the folder does not hold them, or not as Hydra writes them.
    """
    try:
        values = _parse(folder / HYDRA_FOLDER / OVERRIDES_FILE)
    except Exception:
        # As in `read_run_config`.
        return None
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None


def _parse(path: Path) -> Any:
    """Return what a small YAML file holds; it is refused where a few bytes would stand for long work or much memory."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is longer than the {_MAX_BYTES:,} bytes that it may have")
    text = content.decode("utf-8")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        # PyYAML looks at all open lists for each character, so that the time grows with the square of their number.
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"lists and tables lie in it more than {_MAX_DEPTH} deep")
        # A few lines of references to references stand for billions of values.
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it refers to a part of itself (*name), which no run writes")
        # PyYAML takes such a number digit by digit, in time that grows with the square of their number.
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_DIGITS and _DIGITS.fullmatch(event.value):
            raise ValueError(f"it holds a number of more than {_MAX_DIGITS} digits")
    return yaml.safe_load(text)
