"""Trains, goes on, exports, generates and prepares again and again in one process, and looks whether anything grows.

    python benchmarks/soak.py 60                   minutes
    python benchmarks/soak.py 60 --write           append the table to benchmarks/RESULTS.md
    python benchmarks/soak.py 0 --rounds 8         a fixed number of rounds

A round trains a model with its checkpoints, in turn with and without LoRA and with 0 and 2 processes that prepare batches, goes
on from its last checkpoint, exports the end and a checkpoint, generates, evaluates, prepares a checkpoint, and removes all
that it made. After each round the open files, threads, child processes, temporary files and memory of the process are counted.
The first rounds fill caches; later ones must add no file, thread, process or temporary file at all, and less than --bound MiB
of anonymous memory for each round. The exit status is 1 if they did.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import psutil
import torch
from kill_world import Kind, World
from report import add_write_option, describe_machine, publish

MIB = 2**20
# Whether with LoRA, and how many processes prepare batches. The first two have all there is.
_KINDS = [(True, 2), (False, 0), (False, 2), (True, 0)]


@dataclass(frozen=True)
class Figures:
    """What the process holds after a round.

    Attributes:
        time_s: seconds since the first round began.
        open_files: descriptors.
        threads: of the process.
        processes: its children.
        temporary_files: files and folders in the system's temporary folder, the caches and the working folder.
        anonymous_mib: resident memory that no file backs, in MiB.
        resident_mib: resident memory, in MiB.
    """

    time_s: float
    open_files: int
    threads: int
    processes: int
    temporary_files: int
    anonymous_mib: float
    resident_mib: float


COUNTS = ("open_files", "threads", "processes", "temporary_files")


def take_figures(world: World, began_s: float) -> Figures:
    """Count what this process holds now."""
    from splitlearn.memory import MemoryTracker

    gc.collect()
    process = psutil.Process()
    memory = MemoryTracker().sample()
    return Figures(
        time_s=time.monotonic() - began_s,
        open_files=process.num_fds(),
        threads=process.num_threads(),
        processes=len(process.children(recursive=True)),
        temporary_files=len(world.paths()),
        anonymous_mib=(memory.anonymous_bytes or 0) / MIB,
        resident_mib=memory.rss_bytes / MIB,
    )


def play(world: World, has_lora: bool, num_workers: int) -> None:
    """Do once all that a user does with a model."""
    from splitlearn.app import compose, evaluate, export, generate, train
    from splitlearn.checkpoint import prepare_checkpoint

    kind, run = Kind("train", has_lora=has_lora, num_workers=num_workers), world.work / "run"
    settings = [setting for setting in world.settings(kind, run)[1:] if not setting.startswith("hydra.")]
    train(compose(*settings, "trainer.max_steps=2"), folder=run)
    train(compose(*settings, "ckpt_path=last"), folder=run)
    for ckpt in ("null", "last"):
        export(compose(f"run={run}", f"out={world.work / f'out_{ckpt}'}", f"ckpt={ckpt}", config_name="export"))
    generate(compose(f"run={run}", "prompt=Note", "max_new_tokens=4", config_name="generate"))
    evaluate(compose(f"run={run}", config_name="evaluate"))
    (world.work / "prepared").mkdir()
    prepare_checkpoint(world.shared / "single", world.work / "prepared", max_shard_size="1MB")
    for path in world.work.iterdir():
        shutil.rmtree(path)


def slope(rounds: Sequence[Figures], name: str) -> float:
    """Return by how much a figure grows with each round, as Theil and Sen estimate it: single rounds do not matter."""
    values = [getattr(figures, name) for figures in rounds]
    pairs = [(late - early) / (j - i) for i, early in enumerate(values) for j, late in enumerate(values) if j > i]
    return statistics.median(pairs) if pairs else 0.0


def problems(rounds: Sequence[Figures], bound_mib: float) -> list[str]:
    """Say what grew after the first rounds."""
    first, last = rounds[0], rounds[-1]
    grown = [
        f"{name.replace('_', ' ')}: {getattr(first, name)} after the first rounds, {getattr(last, name)} in the end"
        for name in COUNTS
        if getattr(last, name) > getattr(first, name)
    ]
    if (grown_mib := slope(rounds, "anonymous_mib")) > bound_mib:
        grown.append(f"anonymous memory: {grown_mib:.2f} MiB more with each round, more than {bound_mib} MiB")
    return grown


def report(rounds: Sequence[Figures], warm_up: int) -> str:
    """Return the figures as a Markdown section."""
    first, last = rounds[0], rounds[-1]
    lines = [
        f"## {last.time_s / 60:.0f} minutes of runs in one process",
        "",
        f"{describe_machine('torch', 'lightning', 'transformers')}; {warm_up + len(rounds)} rounds of "
        "training, going on, two exports, generating, evaluating and preparing. "
        f"The first {warm_up} rounds fill caches and are left out.",
        "",
        "| | first | last | most | more with each round |",
        "|---|---|---|---|---|",
    ]
    for name in (*COUNTS, "anonymous_mib", "resident_mib"):
        most = max(getattr(figures, name) for figures in rounds)
        label = name.replace("_mib", " MiB").replace("_", " ")
        cells = [f"{value:.0f}" for value in (getattr(first, name), getattr(last, name), most)]
        lines.append(f"| {' | '.join([label, *cells, f'{slope(rounds, name):.3f}'])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Play rounds and report; 1 if anything grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, help="how long to go on")
    parser.add_argument("--rounds", type=int, default=2 * len(_KINDS), help="play so many rounds at least")
    parser.add_argument("--warm-up", type=int, default=len(_KINDS), help="leave out the first so many, which fill caches")
    parser.add_argument("--bound", type=float, default=1.0, help="how many MiB of anonymous memory a round may add")
    add_write_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds: list[Figures] = []
    with World.temporary() as world:
        world.build()
        began_s = time.monotonic()
        while len(rounds) < max(arguments.rounds, arguments.warm_up + 2) or rounds[-1].time_s < 60 * arguments.minutes:
            play(world, *_KINDS[len(rounds) % len(_KINDS)])
            rounds.append(take_figures(world, began_s))
            print(f"{len(rounds):4} {rounds[-1]}", file=sys.stderr, flush=True)
    steady = rounds[arguments.warm_up :]
    publish(report(steady, arguments.warm_up), arguments.write)
    grown = problems(steady, arguments.bound)
    for line in grown:
        print(line, file=sys.stderr)
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
