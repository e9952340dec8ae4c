"""The losses that a run has logged, by step."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splitlearn.redaction import reason_of

# A run that logs every step writes some 200 bytes for each of them.
_MAX_BYTES = 64 * 2**20
_MOST_POINTS = 200
KINDS = ("val_loss", "train_loss_step")


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
    points: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    for path in (*aside, folder / "metrics" / "metrics.csv"):
        if path.is_file():
            # A step that was taken again after a resume counts as it was the last time.
            for step, kind, loss in _read(path):
                points[kind][step] = loss
    return {kind: _thinned(sorted(by_step.items())) for kind, by_step in points.items() if by_step}


def _read(path: Path) -> Iterator[tuple[int, str, float]]:
    """Yield the step, kind and value of each loss of a log; what is no number is left out."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} is longer than the {_MAX_BYTES:,} bytes that it may have")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            columns = {name: place for place, name in enumerate(next(rows, []))}
            places = [(kind, columns[kind]) for kind in KINDS if kind in columns and "step" in columns]
            for row in rows:
                for kind, place in places:
                    loss = _number(row, place)
                    step = None if loss is None else _number(row, columns["step"])
                    if loss is not None and step is not None and abs(step) < 2**53:
                        yield int(step), kind, loss
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {reason_of(error)}") from error


def _number(row: list[str], place: int) -> float | None:
    if place >= len(row) or not row[place]:
        return None
    try:
        number = float(row[place])
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _thinned(points: list[tuple[int, float]]) -> Curve:
    """Return a curve with few enough points: evenly spaced ones, the first and the last among them."""
    count = min(len(points), _MOST_POINTS)
    kept = [points[round(place * (len(points) - 1) / max(count - 1, 1))] for place in range(count)]
    return Curve([step for step, _ in kept], [round(loss, 6) for _, loss in kept])
