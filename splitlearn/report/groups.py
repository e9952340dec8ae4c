"""Runs that differ in their seeds alone, put together: means, spread, and the front of the best."""

from __future__ import annotations

import numpy as np
import pandas as pd

from splitlearn.report.columns import FIGURES

# What a cut costs, and what it is for: all of it is to be small.
OBJECTIVES = ("loss", "client_gib", "bytes_per_step", "token_recovery")
_KEYS = ["model", "split_point_1", "split_point_2", "settings"]


def group_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Put the completed runs together that differ in their seeds alone.

    Args:
        frame: runs as `read_runs` returns them.

    Returns:
        One row a group, the lowest loss first: ``model``, ``split_point_1``, ``split_point_2`` and ``settings`` that
        its runs have in common; for each figure the mean under its own name, and under the name with ``_std`` the
        standard deviation over the runs (NaN for a single one); ``num_runs``; ``runs``, the names; ``label``; and
        ``is_pareto``: no other group is at least as good in everything that was measured, and better in something.
    """
    done = frame[(frame["status"] == "completed") & frame["split_point_1"].notna() & frame["split_point_2"].notna()]
    done = done.assign(model=done["model"].fillna("unknown model"))
    grouped = done.groupby(_KEYS, dropna=False, sort=False)
    figures = grouped[FIGURES]
    groups = figures.mean().join(figures.std(ddof=1).add_suffix("_std"))
    groups["num_runs"] = grouped.size()
    groups["runs"] = grouped["run"].agg(list)
    groups = groups.reset_index().sort_values(["loss", "split_point_1", "split_point_2"], kind="stable").reset_index(drop=True)
    groups["variant"] = _differences(groups["settings"])
    groups["label"] = [
        label(first, second, variant)
        for first, second, variant in zip(groups["split_point_1"], groups["split_point_2"], groups["variant"], strict=True)
    ]
    groups["is_pareto"] = pareto_front(groups, [name for name in OBJECTIVES if groups[name].notna().any()])
    return groups


def label(split_point_1: int, split_point_2: int, variant: str = "") -> str:
    """Return the name of a cut, with the settings that tell it from others at the same split points."""
    return f"{split_point_1} / {split_point_2}" + (f" ({variant})" if variant else "")


def pareto_front(groups: pd.DataFrame, objectives: list[str]) -> np.ndarray:
    """Return for each row whether no other is at least as good in all objectives and better in one; smaller is better.

    A row without a loss, or without one of the objectives, is never on the front.
    """
    values = groups[objectives].to_numpy(dtype=float)
    is_known = ~np.isnan(values).any(axis=1) & groups["loss"].notna().to_numpy() if objectives else np.zeros(len(groups), bool)
    front = is_known.copy()
    known = values[is_known]
    for index in np.flatnonzero(is_known):
        no_worse = (known <= values[index]).all(axis=1)
        better = (known < values[index]).any(axis=1)
        front[index] = not (no_worse & better).any()
    return front


def _differences(settings: pd.Series) -> list[str]:
    """Return of each group's settings those that not all groups have."""
    words = [set(text.split(" ")) for text in settings.unique()]
    common = set.intersection(*words) if words else set()
    return [" ".join(word for word in text.split(" ") if word not in common) for text in settings]
