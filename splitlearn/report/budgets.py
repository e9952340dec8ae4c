"""Budgets, and the cut that is best within them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from splitlearn.memory import format_bytes
from splitlearn.report.commands import train_command
from splitlearn.report.groups import group_runs

# The order in which cuts are preferred that are equally good in their loss.
_PREFERENCES = ["client_gib", "bytes_per_step", "step_s", "loss"]


@dataclass(frozen=True)
class Budgets:
    """What a cut may cost at most; None sets no limit.

    Attributes:
        max_client_gib: memory of the client's parts in GiB (2**30 bytes).
        max_bytes_per_step: bytes that cross the cuts in an optimizer step, both ways together.
        max_recovery: share of the tokens that an attacker reconstructs.
        max_loss_increase: nats a token above the lowest held-out loss of all cuts.
    """

    max_client_gib: float | None = None
    max_bytes_per_step: float | None = None
    max_recovery: float | None = None
    max_loss_increase: float | None = None

    def limits(self, lowest_loss: float) -> Iterator[tuple[str, str, float]]:
        """Yield for each budget that is set its name, the figure that it limits, and the figure's largest value."""
        for name, figure in (
            ("max_client_gib", "client_gib"),
            ("max_bytes_per_step", "bytes_per_step"),
            ("max_recovery", "token_recovery"),
        ):
            limit = getattr(self, name)
            if limit is not None:
                yield name, figure, limit
        if self.max_loss_increase is not None:
            yield "max_loss_increase", "loss", lowest_loss + self.max_loss_increase

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class Recommendation:
    """The recommended cut, or why there is none.

    Attributes:
        split_point_1: first layer of the trunk; None if no cut is recommended.
        split_point_2: first layer of the top; None if no cut is recommended.
        reason: one paragraph.
        command: the command that trains the cut; None if no cut is recommended.
        runs: the names of the runs that trained it.
    """

    split_point_1: int | None
    split_point_2: int | None
    reason: str
    command: str | None = None
    runs: tuple[str, ...] = ()


def recommend(frame: pd.DataFrame, budgets: Budgets | None = None) -> Recommendation:
    """Choose a cut by what was measured.

    A cut meets a budget if the mean over its seeds was measured and is within it. Among the cuts that meet all
    budgets, those count as equally good whose mean loss is at most ``max_loss_increase`` above the lowest of all
    cuts. Without that budget it is at most one standard error of the difference above the lowest among them (the
    one-standard-error rule of model selection). Of these the one is recommended that takes the least client memory,
    then the fewest bytes, then the least time.

    Args:
        frame: runs of one model as `read_runs` returns them.
        budgets: what the cut may cost; None sets no limits.

    Raises:
        ValueError: the runs are of several models, whose losses cannot be compared.
    """
    budgets = budgets or Budgets()
    models = sorted(map(str, frame["model"].dropna().unique()))
    if len(models) > 1:
        raise ValueError(
            f"the runs are of {len(models)} models ({', '.join(models[:3])}), whose losses cannot be compared; choose one: "
            "frame[frame.model == ...]"
        )
    groups = group_runs(frame)
    groups = groups[groups["loss"].notna()]
    if groups.empty:
        return Recommendation(None, None, "No run completed with a held-out loss, so there is nothing to choose from.")
    lowest = float(groups["loss"].min())
    meets = {name: groups[figure] <= limit for name, figure, limit in budgets.limits(lowest)}
    fits = np.logical_and.reduce(list(meets.values())) if meets else np.ones(len(groups), dtype=bool)
    if not fits.any():
        return Recommendation(None, None, _why_none(groups, budgets, meets, lowest))
    fitting = groups[fits]
    margin = math.inf if budgets.max_loss_increase is not None else _standard_error(groups)
    best = fitting.iloc[0]
    equal = fitting[fitting["loss"] - best["loss"] <= margin * _share(best, fitting)] if math.isfinite(margin) else fitting
    chosen = equal.sort_values(_PREFERENCES, kind="stable").iloc[0]
    reason = _why(chosen, best, equal, fitting, groups, budgets)
    run = frame[frame["run"].isin(chosen["runs"])].sort_values(["seed", "run"]).iloc[0]
    points = int(chosen["split_point_1"]), int(chosen["split_point_2"])
    return Recommendation(*points, reason, train_command(Path(run["folder"]), run), tuple(chosen["runs"]))


def _standard_error(groups: pd.DataFrame) -> float:
    """Return the standard deviation over seeds, pooled over all cuts; 0 if no cut has several runs."""
    several = groups[groups["num_runs"] > 1]
    degrees = (several["num_runs"] - 1).sum()
    return math.sqrt(((several["num_runs"] - 1) * several["loss_std"] ** 2).sum() / degrees) if degrees else 0.0


def _share(best: pd.Series, groups: pd.DataFrame) -> pd.Series:
    """Return the factor from the deviation of single runs to that of the difference of each mean from the best one."""
    return np.sqrt(1 / groups["num_runs"] + 1 / best["num_runs"])


def _why(
    chosen: pd.Series, best: pd.Series, equal: pd.DataFrame, fitting: pd.DataFrame, groups: pd.DataFrame, budgets: Budgets
) -> str:
    """Return the reason for a recommendation as one paragraph."""
    runs = "one run" if chosen["num_runs"] == 1 else f"{chosen['num_runs']} runs, standard deviation {chosen['loss_std']:.4f}"
    text = f"Cut {chosen['label']} is recommended. Its held-out loss is {chosen['loss']:.4f} nats a token ({runs})"
    among = "all" if len(fitting) == len(groups) else "those that meet the budgets"
    above = chosen["loss"] - best["loss"]
    if above > 0:
        text += f", {above:.4f} above the lowest of {among} (cut {best['label']}). "
    else:
        text += f", the lowest of {among}. " if len(fitting) > 1 else ". "
    if len(equal) > 1:
        within = "within one standard error of the lowest, so these seeds do not tell them apart"
        if budgets.max_loss_increase is not None:
            within = f"at most {budgets.max_loss_increase:g} above the lowest, as allowed"
        elif equal["loss"].max() == best["loss"]:
            within = "equally good, since they have the same loss"
        text += f"{len(equal)} cuts are {within}; of these it costs the least. "
    text += f"{_costs(chosen)}"
    if str(budgets):
        text += f" {len(fitting)} of {len(groups)} cuts meet the budgets ({budgets})."
    elif _standard_error(groups) == 0:
        text += " Each cut was trained once, so by how much the loss varies with the seed is not known."
    return text


def _costs(chosen: pd.Series) -> str:
    """Say what a cut costs, as far as it was measured."""
    costs = []
    if pd.notna(chosen["client_gib"]):
        costs.append(f"{chosen['client_gib']:.3f} GiB of client memory")
    if pd.notna(chosen["bytes_per_step"]):
        costs.append(f"{format_bytes(chosen['bytes_per_step'])} over the cuts a step")
    if pd.notna(chosen["step_s"]):
        costs.append(f"{1000 * chosen['step_s']:.0f} ms a step")
    if pd.notna(chosen["token_recovery"]):
        costs.append(f"{chosen['token_recovery']:.1%} of the tokens recovered by the best attack")
    return f"It costs {', '.join(costs)}." if costs else "What it costs was not measured."


def _why_none(groups: pd.DataFrame, budgets: Budgets, meets: dict[str, pd.Series], lowest: float) -> str:
    """Say which budgets are met by no cut, or that they are met by different ones."""
    parts = []
    for name, figure, _ in budgets.limits(lowest):
        wanted = f"{name}={getattr(budgets, name):g}"
        if meets[name].any():
            parts.append(f"{wanted} is met by {meets[name].sum()} of {len(groups)}")
        elif groups[figure].isna().all():
            parts.append(f"{wanted} cannot be judged, since no run measured it")
        else:
            least = groups.loc[groups[figure].idxmin()]
            parts.append(f"{wanted} is met by none (the least is {least[figure]:.4g}, at cut {least['label']})")
    return f"No cut meets the budgets: {'; '.join(parts)}."
