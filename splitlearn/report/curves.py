"""The losses that a run has logged, by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from splitlearn.redaction import reason_of

# A run of a million steps that logs every step has some 200 MB; the page shows a few hundred points of a curve.
_MAX_BYTES = 256 * 2**20
_MOST_POINTS = 200
_COLUMNS = {"step", "train_loss_step", "val_loss"}


@dataclass(frozen=True)
class Curve:
    """Losses by step.

    Attributes:
        steps: numbers of optimizer steps, growing.
        losses: nats a token after each of them.
    """

    steps: list[int]
    losses: list[float]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read the losses of a run from its ``metrics.csv``, and from those that were put aside when it was resumed.

    Returns:
        ``"val_loss"`` and ``"train_loss_step"``, each with at most 200 points; without those that were not logged.

    Raises:
        ValueError: a file is damaged or far too large.
        OSError: a file cannot be read.
    """
    aside = sorted(folder.glob("metrics_until_resume_*/metrics.csv"), key=lambda path: (len(path.parent.name), str(path)))
    paths = [path for path in (*aside, folder / "metrics" / "metrics.csv") if path.is_file()]
    tables = [_read(path) for path in paths]
    if not tables:
        return {}
    logged = pd.concat(tables, ignore_index=True)
    curves = {}
    for name in ("val_loss", "train_loss_step"):
        if name in logged and "step" in logged:
            # A step that was taken again after a resume counts as it was the last time.
            points = logged[["step", name]].dropna().drop_duplicates("step", keep="last").sort_values("step")
            points = points[points["step"].abs() < 2**53]
            if len(points):
                curves[name] = _thinned(points["step"].astype(int).tolist(), points[name].tolist())
    return curves


def _read(path: Path) -> pd.DataFrame:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} is longer than the {_MAX_BYTES:,} bytes that it may have")
    try:
        table = pd.read_csv(path, usecols=lambda name: name in _COLUMNS, on_bad_lines="skip", dtype="string")
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is damaged: {reason_of(error)}") from error
    numbers = table.apply(lambda column: pd.to_numeric(column, errors="coerce").astype("float64"))
    return numbers.where(numbers.abs() < float("inf"))


def _thinned(steps: list[int], losses: list[float]) -> Curve:
    """Return a curve with few enough points: evenly spaced ones, the first and the last among them."""
    count = min(len(steps), _MOST_POINTS)
    places = sorted({round(place * (len(steps) - 1) / max(count - 1, 1)) for place in range(count)})
    return Curve([steps[place] for place in places], [round(losses[place], 6) for place in places])
