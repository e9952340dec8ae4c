"""JSON files of a run: there whole, or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write a JSON file beside its place and rename it into it.

    Numbers that JSON cannot hold (infinite, not a number) are written as null.

    Returns:
        The file's path.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(_finite(content), file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
