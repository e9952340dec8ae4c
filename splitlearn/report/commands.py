"""The command that trains a cut again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd

from splitlearn.redaction import without_queries
from splitlearn.report.records import setting_of
from splitlearn.runs import read_run_overrides

_PROGRAM = "python -m splitlearn train"
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=")
# The cut is given by its points; the others belong to the run and not to the cut.
_LEFT_OUT = {"split", "run_folder", "ckpt_path", "overwrite", "hydra"}


def train_command(folder: Path, run: pd.Series) -> str:
    """Return the command that trains a run's cut with its settings, quoted for a shell.

    Args:
        folder: the run's folder, whose ``.hydra/overrides.yaml`` says what was typed.
        run: its row.
    """
    typed = read_run_overrides(folder)
    if typed is None:
        named = [] if pd.isna(run["model"]) else ["model=pretrained", f"model.name_or_path={run['model']}"]
        typed = [*named, *shlex.split(run["overrides"])]
    # Options of the command line, such as --config-dir, are none of a run's settings.
    kept = [
        without_queries(override)
        for override in typed
        if _OVERRIDE.match(override) and override.isprintable() and setting_of(override) not in _LEFT_OUT
    ]
    points = [run[f"split_point_{number}"] for number in (1, 2)]
    cut = (
        []
        if any(map(pd.isna, points))
        else ["split=points", *(f"split.point_{1 + place}={int(point)}" for place, point in enumerate(points))]
    )
    return " ".join([_PROGRAM, *map(shlex.quote, kept), *cut])
