"""The runs of some folders as one table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from splitlearn.redaction import reason_of
from splitlearn.report.columns import COLUMNS, COUNTS, FIGURES, TEXTS, plain_text
from splitlearn.report.finding import find_runs
from splitlearn.report.records import read_row


@dataclass(frozen=True)
class Runs:
    """What was read of some folders.

    Attributes:
        frame: one row a run, with the columns of `read_runs`.
        left_out: the folders whose records could not be read, each with the reason.
    """

    frame: pd.DataFrame
    left_out: dict[str, str]


def read_runs(*folders: str | Path) -> pd.DataFrame:
    """Read the records of runs.

    Folders whose record is missing, half-written or damaged are left out, and a warning names them.

    Args:
        *folders: folders of sweeps or of single runs; whatever runs are below them are read.

    Returns:
        One row a run. ``run`` is its name, ``status`` how it ended and ``reason`` why it did not complete.
        ``split_point_1``, ``split_point_2``, ``seed`` and ``settings`` say what it was. ``loss`` is the held-out loss
        in nats a token, ``client_gib`` and ``server_gib`` are memory in GiB (2**30 bytes) as measured,
        ``bytes_per_step`` are the bytes that cross the cuts in an optimizer step, ``step_s`` is a step's median time
        in seconds. Figures that were not measured are NaN.

    Raises:
        FileNotFoundError: a folder does not exist, or none of them holds a run.
    """
    runs = collect_runs([Path(folder) for folder in folders])
    if runs.left_out:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(runs.left_out.items())[:3])
        more = f"; and {len(runs.left_out) - 3} more" if len(runs.left_out) > 3 else ""
        warnings.warn(f"left out, since their records cannot be read: {shown}{more}", stacklevel=2)
    return runs.frame


def collect_runs(folders: list[Path]) -> Runs:
    """Read the records of all runs at or below some folders; see `read_runs`.

    Raises:
        FileNotFoundError: a folder does not exist, or none of them holds a run.
    """
    rows, left_out = [], {}
    for folder, name in _named(folders).items():
        try:
            rows.append(read_row(folder, name))
        except (ValueError, OSError) as error:
            left_out[plain_text(name)] = plain_text(reason_of(error))
    if not rows and not left_out:
        shown = ", ".join(map(str, folders)) or "no folder"
        raise FileNotFoundError(
            f"there is no run in {shown}; name the folder of a sweep or of a run, such as multirun/DATE/TIME"
        )
    # As objects first: otherwise a text that is not known becomes NaN.
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype="object")
    kinds = {**dict.fromkeys(COUNTS, "Int64"), **dict.fromkeys(FIGURES, "float64"), **dict.fromkeys(TEXTS, "object")}
    frame = frame.astype(kinds)
    order = frame.assign(is_open=frame["status"] != "completed")
    order = order.sort_values(["is_open", "loss", "split_point_1", "split_point_2", "seed", "run"], kind="stable")
    return Runs(frame.loc[order.index].reset_index(drop=True), left_out)


def _named(folders: list[Path]) -> dict[Path, str]:
    """Return the folders of all runs, each with a name that no other has; a folder that is named twice is read once."""
    names: dict[Path, str] = {}
    seen: set[Path] = set()
    taken: set[str] = set()
    for top in folders:
        for run in find_runs(top):
            place = run.resolve()
            if place in seen:
                continue
            seen.add(place)
            within = run.relative_to(top).as_posix() if run != top else top.resolve().name
            name = within if len(folders) == 1 or run == top else f"{top.resolve().name}/{within}"
            names[run] = name if name not in taken else str(run)
            taken.add(names[run])
    return names
