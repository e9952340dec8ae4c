"""Choosing split points by figures: parts as equal as possible, within budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitlearn.cut import PART_NAMES, CutError, SplitPlan
from splitlearn.memory import GIB, format_bytes
from splitlearn.model import Blueprint
from splitlearn.naming import named
from splitlearn.planning.sizes import Sizes, compute_per_token, weight_bytes

BALANCES = ("bytes", "compute")


def choose_cut(blueprint: Blueprint, balance: str = "bytes", max_gib: Mapping[str, Any] | None = None) -> SplitPlan:
    """Find the split points whose largest part is smallest, among those that keep every part within its budget.

    Every part gets a layer if there are three or more.

    Args:
        blueprint: the model.
        balance: the figure to make equal: ``"bytes"`` of weights, or ``"compute"`` for each token.
        max_gib: for each part the most GiB (2**30 bytes) that its weights may take; absent or None is no limit.

    Returns:
        The cut.

    Raises:
        CutError: no cut keeps the budgets; the message gives the least that the parts need.
        ValueError: a setting is unknown or out of range.
    """
    if balance not in BALANCES:
        raise ValueError(f"{named('balance')} is {balance!r}; choose one of {', '.join(BALANCES)}")
    budgets = _budgets(max_gib or {})
    stored = weight_bytes(blueprint)
    figures = stored if balance == "bytes" else compute_per_token(blueprint)
    plans = _plans(len(stored.layers), blueprint)
    fitting = [plan for plan in plans if all(stored.of(part) <= budgets[part.name] for part in plan.parts)]
    if not fitting:
        raise CutError(_why_none_fits(plans, stored, budgets))
    # Among equally good cuts, take the one with the largest trunk, which the server holds.
    return min(fitting, key=lambda plan: (max(figures.of(part) for part in plan.parts), -figures.of(plan.trunk)))


def _budgets(max_gib: Mapping[str, Any]) -> dict[str, float]:
    unknown = [name for name in max_gib if name not in PART_NAMES]
    if unknown:
        raise ValueError(f"{named('max_gib')} names {unknown[0]!r}; the parts are {', '.join(PART_NAMES)}")
    budgets = {}
    for name in PART_NAMES:
        gib = max_gib.get(name)
        if gib is not None and (isinstance(gib, bool) or not isinstance(gib, (int, float)) or not gib > 0):
            raise ValueError(f"{named(f'max_gib.{name}')} is {gib!r}; give a number of GiB above 0, or null")
        budgets[name] = float("inf") if gib is None else gib * GIB
    return budgets


def _plans(num_layers: int, blueprint: Blueprint) -> list[SplitPlan]:
    least = 1 if num_layers >= len(PART_NAMES) else 0
    plans = []
    for first in range(least, num_layers + 1 - least):
        for second in range(first + least, num_layers + 1 - least):
            plan = SplitPlan(num_layers, first, second)
            # Some architectures need a layer in the top.
            try:
                blueprint.check(plan)
            except CutError:
                continue
            plans.append(plan)
    return plans


def _why_none_fits(plans: list[SplitPlan], stored: Sizes, budgets: Mapping[str, float]) -> str:
    for index, name in enumerate(PART_NAMES):
        least = min(stored.of(plan.parts[index]) for plan in plans)
        if least > budgets[name]:
            return (
                f"{named(f'max_gib.{name}')} allows {format_bytes(budgets[name])}, but the smallest {name} of this model takes "
                f"{format_bytes(least)}; raise it, or load in fewer bytes with {named('dtype')}=bfloat16"
            )
    total = stored.before + sum(stored.layers) + stored.after
    allowed = ", ".join(f"{name} {format_bytes(budgets[name])}" for name in PART_NAMES if budgets[name] != float("inf"))
    return (
        f"no cut keeps every part within {named('max_gib')} ({allowed}): the weights take {format_bytes(total)} in all; "
        f"raise a budget, or load in fewer bytes with {named('dtype')}=bfloat16"
    )
