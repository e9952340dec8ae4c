"""One run's record as a row of the table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitlearn.memory import GIB
from splitlearn.report.columns import COLUMNS, plain_text
from splitlearn.runs import SUMMARY_FILE, RunSummary, read_run_config, read_run_overrides, read_summary

# Settings that do not tell one variant of training from another: the cut and the seed have columns of their own, and attacks
# change nothing of a training.
_NO_VARIANT = {"attack", "seed", "split", "tags", "run_folder", "overwrite", "ckpt_path", "verbose", "save_parts"}
_MOST_OVERRIDES = 200
# Columns, and what they are called in a record's ``link``.
_LINK = {"link_step_s": "step_s", "waiting_share": "waiting_share"}


def read_row(folder: Path, name: str) -> dict[str, Any]:
    """Return what is known of a run, by the names of `COLUMNS`; None stands for what its record does not say.

    Args:
        folder: the run's folder.
        name: what the run is called in the table.

    Raises:
        ValueError: the record is damaged, a newer release's, or missing.
        OSError: it cannot be read.
    """
    summary = read_summary(folder)
    if summary is None:
        raise ValueError(f"it has no {SUMMARY_FILE}: its run was killed before it wrote one")
    overrides = _overrides(summary, folder)
    row: dict[str, Any] = {
        "run": plain_text(name),
        "folder": str(folder),
        "status": plain_text(summary.status or "unknown"),
        "reason": None if summary.reason is None else plain_text(summary.reason),
        "model": None if summary.model is None else plain_text(summary.model),
        "split_point_1": _count(summary.split_point_1),
        "split_point_2": _count(summary.split_point_2),
        "seed": _seed(summary, overrides, folder),
        "learning_rate": as_figure(summary.learning_rate),
        "batch_size": _count(summary.batch_size),
        "settings": plain_text(" ".join(sorted(each for each in overrides if setting_of(each) not in _NO_VARIANT))),
        "overrides": plain_text(shlex.join(overrides)),
        "tags": plain_text(", ".join(map(str, summary.tags or ()))),
        "sweep": None if summary.sweep is None else plain_text(summary.sweep),
        **_quality(summary.metrics or {}),
        **_attacks(summary.attacks or {}),
        **_memory(summary),
        **_traffic(summary.traffic or {}),
        **_step_times(summary.phases or {}, summary.metrics or {}),
        **{name: as_figure((summary.link or {}).get(key)) for name, key in _LINK.items()},
    }
    return {column: row.get(column) for column in COLUMNS}


def setting_of(override: str) -> str:
    """Return the first word of the setting that an override is of: ``split`` for ``split.point_1=2``."""
    return override.partition("=")[0].lstrip("+~").partition(".")[0].partition("@")[0]


def _overrides(summary: RunSummary, folder: Path) -> list[str]:
    """Return the overrides of a run: a job's of its sweep, or all that were typed where the record has none."""
    noted: Sequence[Any] | None = summary.overrides
    if noted is None:
        noted = read_run_overrides(folder) or ()
    return [each for each in noted[:_MOST_OVERRIDES] if isinstance(each, str)]


def _seed(summary: RunSummary, overrides: Sequence[str], folder: Path) -> int | None:
    seed = _count(summary.seed)
    if seed is not None:
        return seed
    for override in overrides:
        name, _, value = override.partition("=")
        if name.lstrip("+") == "seed" and value.isascii() and value.isdigit() and len(value) < len(str(2**63)):
            return int(value)
    # Records of older releases.
    try:
        return _count(read_run_config(folder).get("seed"))
    except (OSError, ValueError):
        return None


def _quality(metrics: Mapping[str, Any]) -> dict[str, Any]:
    names = {"loss": "val_loss_after", "loss_before": "val_loss_before", "perplexity": "val_perplexity_after"}
    same = ("tokens_per_s", "train_s", "peak_rss_gib", "peak_anonymous_gib", "peak_gpu_gib")
    figures = {name: as_figure(metrics.get(key)) for name, key in {**names, **{name: name for name in same}}.items()}
    return {**figures, **{name: _count(metrics.get(name)) for name in ("train_steps", "train_tokens")}}


def _attacks(attacks: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the best attack recovered, and which attack that is."""
    headline = as_mapping(attacks.get("headline"))
    attack, cut, direction = (headline.get(name) for name in ("attack", "cut", "direction"))
    words = [attack, None if _count(cut) is None else f"cut {cut}", direction]
    figures = {name: as_figure(headline.get(name)) for name in ("token_recovery", "rouge_l")}
    best = plain_text(" ".join(word for word in words if isinstance(word, str)))
    return {**figures, "best_attack": best or None}


def _memory(summary: RunSummary) -> dict[str, Any]:
    """Return the memory of the data's owner and of all others together, measured and planned."""
    owner = (summary.placement or {}).get("data", "client")
    memory = summary.memory or {}
    row = {}
    for prefix, key in (("", "parties"), ("planned_", "planned_parties")):
        sizes = as_mapping(memory.get(key))
        known = {str(party): as_figure(size) for party, size in sizes.items()}
        others = [size for party, size in known.items() if party != owner and size is not None]
        own = known.get(str(owner))
        row[f"{prefix}client_gib"] = None if own is None else own / GIB
        row[f"{prefix}server_gib"] = sum(others) / GIB if others else None
    return row


def _traffic(traffic: Mapping[str, Any]) -> dict[str, Any]:
    sums: dict[str, float | None] = {}
    for direction in ("uplink", "downlink"):
        counts = [
            as_figure(count)
            for cut, of_cut in traffic.items()
            if cut.startswith("cut_")
            for name, count in as_mapping(of_cut).items()
            if name.endswith(f"_{direction}_bytes_per_step")
        ]
        known = [count for count in counts if count is not None]
        sums[direction] = sum(known) if known else None
    up, down = sums["uplink"], sums["downlink"]
    both = None if up is None or down is None else up + down
    return {"bytes_per_step": both, "uplink_bytes_per_step": up, "downlink_bytes_per_step": down}


def _step_times(phases: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of a step; in records without phases the mean stands for the median."""
    step = as_mapping(phases.get("step"))
    times = {f"step{suffix}": as_figure(step.get(key)) for suffix, key in (("_p95_s", "p95_s"), ("_p99_s", "p99_s"))}
    median = as_figure(step.get("median_s"))
    if median is None:
        tokens, rate, steps = (as_figure(metrics.get(name)) for name in ("train_tokens", "tokens_per_s", "train_steps"))
        median = tokens / rate / steps if tokens and rate and steps else None
    return {"step_s": median, **times}


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return an object of a record; an empty one for whatever is none."""
    return value if isinstance(value, Mapping) else {}


def as_figure(value: Any) -> float | None:
    """Return a number as a float; None for whatever is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: Any) -> int | None:
    """Return a whole number; None for whatever is none, or does not fit 64 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None
