"""What a sweep costs beside its runs: wall time over the runs' own, and the memory of a run alone and as the last of a sweep.

python benchmarks/sweep.py --write          append the table to benchmarks/RESULTS.md

The runs are alike: the embedded model, cut at 2 and 6, trained for so many steps. A run's own time is its training and the
evaluations before and after. The first run also waits for the imports, so the ratio is that of the runs after it: from its end
to the last one's. The run alone is a sweep of one run, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from report import add_write_option, publish

ROOT = Path(__file__).resolve().parents[1]
CLOCK_FILE = "own_seconds.json"


class Clock(Callback):
    """Adds up the seconds of a run's training and of the evaluations around it, and writes them into the run's folder."""

    def __init__(self) -> None:
        self._own_s = 0.0
        self._began_s = 0.0

    def _begin(self, trainer: Trainer) -> None:
        self._began_s = time.perf_counter()

    def _end(self, trainer: Trainer) -> None:
        self._own_s += time.perf_counter() - self._began_s
        (Path(trainer.default_root_dir) / CLOCK_FILE).write_text(json.dumps(self._own_s))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the training, which has validations within."""
        self._begin(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with it."""
        self._end(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an evaluation outside the training."""
        if not trainer.training and trainer.state.fn == "validate":
            self._begin(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with it."""
        if not trainer.training and trainer.state.fn == "validate":
            self._end(trainer)


@dataclass(frozen=True)
class Measured:
    """A sweep: when each of its lines came, in seconds from its start, and the runs' own seconds and records in their order."""

    ends_s: list[float]
    wall_s: float
    own_s: list[float]
    records: list[dict[str, Any]]


def run_sweep(folder: Path, num_runs: int, steps: int, blocks: int) -> Measured:
    """Run a sweep of runs that differ in their tags alone."""
    command: list[str | Path] = [
        sys.executable,
        ROOT / "train.py",
        "-m",
        f"hydra.sweep.dir={folder}",
        f"trainer.max_steps={steps}",
    ]
    command += ["trainer.max_epochs=-1", f"data.max_train_blocks={blocks}", "data.max_val_blocks=32", "save_parts=false"]
    command += ["split.point_1=2", "split.point_2=6", "callbacks.clock._target_=sweep.Clock"]
    command.append("tags=" + ",".join(f"[run{number}]" for number in range(num_runs)))
    path = os.pathsep.join(filter(None, (str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    start_s, ends_s = time.perf_counter(), []
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.strip()[:1].isdigit() and "/" in line.split()[0]:
                ends_s.append(time.perf_counter() - start_s)
    if process.returncode != 0 or len(ends_s) != num_runs:
        raise RuntimeError(f"the sweep ended with {process.returncode}; see {folder}")
    folders = sorted(
        (path.parent for path in folder.glob("*/summary.json")), key=lambda path: (path / CLOCK_FILE).stat().st_mtime
    )
    own_s = [float(json.loads((path / CLOCK_FILE).read_text())) for path in folders]
    records = [json.loads((path / "summary.json").read_text()) for path in folders]
    return Measured(ends_s, time.perf_counter() - start_s, own_s, records)


def report_of(alone: Measured, sweep: Measured, steps: int) -> str:
    """Return the table as Markdown."""
    after_first = (sweep.ends_s[-1] - sweep.ends_s[0]) / sum(sweep.own_s[1:])
    rows = [
        ("runs, steps each", f"{len(sweep.own_s)}, {steps}"),
        ("a run's own time, median", f"{sorted(sweep.own_s)[len(sweep.own_s) // 2]:.1f} s"),
        ("wall time of the sweep", f"{sweep.wall_s:.1f} s"),
        ("until the first run's end", f"{sweep.ends_s[0]:.1f} s"),
        ("wall time over the runs' own, all runs", f"{sweep.wall_s / sum(sweep.own_s):.2f}x"),
        ("wall time over the runs' own, after the first run", f"{after_first:.2f}x"),
    ]
    for name, label in (("peak_rss_gib", "peak RAM"), ("peak_anonymous_gib", "peak anonymous RAM")):
        before, last = alone.records[0]["metrics"][name], sweep.records[-1]["metrics"][name]
        rows.append((f"{label} alone and as the last", f"{before:.3f} and {last:.3f} GiB, {abs(last / before - 1):.1%} apart"))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "hydra-core"))
    heading = f"## Sweeps\n\n{platform.machine()}, {os.cpu_count()} cores, {libraries}, {time.strftime('%Y-%m-%d')}\n\n"
    return heading + "| what | measured |\n|---|---|\n" + "".join(f"| {label} | {figure} |\n" for label, figure in rows)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="of the sweep, at least 2")
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--blocks", type=int, default=800, help="of the training data")
    add_write_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        alone = run_sweep(Path(place) / "alone", 1, args.steps, args.blocks)
        sweep = run_sweep(Path(place) / "sweep", args.runs, args.steps, args.blocks)
    publish(report_of(alone, sweep, args.steps), args.write)


if __name__ == "__main__":
    main()
