"""Folders of runs as runs leave them, written without training anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PHASES = ("data", "bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer", "step")
GIB = 2**30


def summary(point_1: int, point_2: int, seed: int = 0, **values: Any) -> dict[str, Any]:
    """A completed run's record: the later the first cut, the lower the loss and the more the client needs."""
    client = (1.0 + 0.25 * point_1 + 0.25 * (8 - point_2)) * GIB
    parts = {name: _part_memory(size * GIB) for name, size in (("bottom", 1 + point_1), ("trunk", 2.0), ("top", 9 - point_2))}
    counts = {
        f"{payload}_{way}_bytes_per_step": 1024.0 * (1 + point_1) for payload in ("activation", "gradient") for way in _WAYS
    }
    record: dict[str, Any] = {
        "version": 1,
        "status": "completed",
        "reason": None,
        "model": "tiny",
        "split_point_1": point_1,
        "split_point_2": point_2,
        "seed": seed,
        "placement": {"parties": {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}, "data": "client"},
        "tags": [],
        "metrics": {
            "val_loss_before": 7.5,
            "val_loss_after": 4.0 - 0.25 * point_1 + 0.0625 * seed,
            "val_perplexity_after": 50.0,
            "train_s": 10.0,
            "train_steps": 20,
            "train_tokens": 1000,
            "tokens_per_s": 100.0,
            "peak_rss_gib": 0.6,
            "peak_anonymous_gib": 0.5,
            "peak_gpu_gib": 0.0,
        },
        "memory": {
            "parts": parts,
            "parties": {"client": int(client), "server": 2 * GIB},
            "planned_parties": {"client": int(client * 1.01), "server": 2 * GIB},
        },
        "phases": {"num_steps": 20, **{name: _times(0.01 * (1 + place)) for place, name in enumerate(PHASES)}},
        "traffic": {"cut_1": dict(counts), "cut_2": dict(counts), "evaluation": {}},
        "loading": [_receipt(name) for name in ("bottom", "trunk", "top")],
        "overrides": [f"split.point_1={point_1}", f"split.point_2={point_2}", f"seed={seed}"],
        "learning_rate": 0.003,
        "batch_size": 8,
    }
    return record | values


_WAYS = ("uplink", "downlink")


def _part_memory(size: float) -> dict[str, int]:
    kinds = ("parameter_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    return {kind: int(size * share) for kind, share in zip(kinds, (0.25, 0.25, 0.4, 0.1), strict=True)}


def _times(seconds: float) -> dict[str, float]:
    return {"median_s": seconds, "p95_s": 1.25 * seconds, "p99_s": 1.5 * seconds}


def _receipt(name: str) -> dict[str, Any]:
    return {
        "part": name,
        "holds": f"layers of {name}",
        "needed_bytes": 2**20,
        "read_bytes": 2**20,
        "seconds": 0.02,
        "shards": ["a"],
    }


def write_run(folder: Path, record: Any, losses: Sequence[float] = (), typed: Sequence[str] | None = None) -> Path:
    """Write a run's folder: its record, the losses that it logged, and what was typed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(record), encoding="utf-8")
    if losses:
        rows = [f"{step},{loss}," for step, loss in enumerate(losses)] + [f"{len(losses)},,{losses[-1] + 0.1}"]
        (folder / "metrics").mkdir(exist_ok=True)
        (folder / "metrics" / "metrics.csv").write_text("\n".join(["step,train_loss_step,val_loss", *rows]) + "\n")
    if typed is not None:
        (folder / ".hydra").mkdir(exist_ok=True)
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
    return folder


def write_sweep(folder: Path, seeds: Sequence[int] = (0, 1)) -> Path:
    """Write a sweep over three cuts, with one that is refused and one that failed."""
    for point_1, point_2 in ((1, 6), (2, 6), (3, 7)):
        for seed in seeds:
            name = f"split.point_1={point_1},split.point_2={point_2},seed={seed}"
            typed = ["model=embedded", "trainer.max_steps=20", *name.split(",")]
            write_run(folder / name, summary(point_1, point_2, seed), [5.0, 4.5, 4.0 - 0.25 * point_1], typed)
    unknown: dict[str, Any] = dict.fromkeys(("metrics", "memory", "phases", "traffic", "loading"))
    refused = unknown | {"status": "refused", "reason": "split points 7 / 6 do not cut the model"}
    write_run(folder / "split.point_1=7,split.point_2=6,seed=0", summary(7, 6, **refused))
    failed = unknown | {"status": "failed", "reason": "out of memory"}
    write_run(folder / "split.point_1=4,split.point_2=7,seed=0", summary(4, 7, **failed))
    return folder
