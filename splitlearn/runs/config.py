"""The configuration that a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONFIG_FILE = "config.yaml"


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
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged or no configuration of a run: {reason}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged or no configuration of a run: it holds no settings")
    return values
