"""Kills commands at random moments, and looks whether anything is lost or left over.

    python benchmarks/kill.py 500                     rounds; 100 take some minutes
    python benchmarks/kill.py 500 --jobs 2 --write    two at a time, and append the table to benchmarks/RESULTS.md
    python benchmarks/kill.py 20 --phases checkpoint  rounds of these phases alone

A round runs a real `train`, `export` or `prepare` in a process of its own and sends it a signal at a random moment: SIGKILL
mostly, SIGTERM or SIGINT else. Runs are with and without LoRA, with 0 and 2 processes that prepare batches, and in a new
folder, or in that of a completed run that they go on from or replace. Then the round looks whether

- all files can be read to their ends, the record and the exit status are true, each checkpoint is a state of the run that was
  never killed, and export and generate either take what is there or refuse it in one sentence;
- the next command (`train ckpt_path=auto`, or the same export or prepare again) ends with the same weights to the bit;
- nothing is left after that: hidden or temporary files, files in the system's temporary folder or the caches, processes, locks.

A round has survived if all of the first two hold. It counts for the phase in which the signal came; where it came after the
command's end it says so. The choices are drawn from --seed; where exactly a signal comes depends on the machine as well. The
folders of rounds with losses are listed with what is wrong, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch
from kill_children import AFTER_END, ELSEWHERE, PHASES, draw_moment
from kill_rounds import Outcome, play
from kill_world import GOES_ON, NEW, REPLACES, Kind, Whole, World
from report import add_write_option, describe_machine, publish

# How often a phase is aimed at.
_SHARES = {phase: 1 if phase in (ELSEWHERE, "record") else 2 for phase in PHASES if phase != AFTER_END}
_SIGNALS = [signal.SIGKILL] * 7 + [signal.SIGTERM] * 2 + [signal.SIGINT]
_FOLDERS = [NEW] * 5 + [GOES_ON] * 3 + [REPLACES] * 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """One round as it was drawn.

    Attributes:
        number: of the round.
        kind: what is run.
        phase: where the signal is to come.
        signal: which one.
    """

    number: int
    kind: Kind
    phase: str
    signal: int


def draw_plans(num_rounds: int, phases: Sequence[str], seed: int) -> list[Plan]:
    """Draw the rounds: each phase gets its share, everything else is left to chance."""
    draw = random.Random(seed)
    plans: list[Plan] = []
    while len(plans) < num_rounds:
        bag = [phase for phase in phases for _ in range(_SHARES[phase])]
        draw.shuffle(bag)
        for phase in bag[: num_rounds - len(plans)]:
            has_lora, command = draw.random() < 0.5, phase if phase in ("export", "prepare") else "train"
            kind = Kind(command, has_lora=has_lora and command != "prepare")
            if command == "train":
                kind = Kind(command, draw.choice(_FOLDERS), has_lora, draw.choice([0, 2]))
            plans.append(Plan(len(plans), kind, phase, draw.choice(_SIGNALS)))
    return plans


def warm_up(world: World) -> None:
    """Do in this process what the rounds will do, so that those forked from it find everything imported."""
    import splitlearn.cli.export
    import splitlearn.cli.prepare
    import splitlearn.cli.train  # noqa: F401
    from splitlearn.app import compose, export, train

    run, out = world.work / "run", world.work / "out"
    tiny = world.settings(Kind("train", has_lora=True), run)
    with contextlib.redirect_stdout(io.StringIO()):
        train(compose(*(setting for setting in tiny[1:] if not setting.startswith("hydra."))), folder=run)
        export(compose(f"run={run}", f"out={out}", config_name="export"))
    for folder in (run, out):
        shutil.rmtree(folder)
    # Otherwise each forked process would look through all that has been imported, and copy it.
    gc.collect()
    gc.freeze()


def play_all(
    plans: Sequence[Plan], world: World, wholes: dict[Kind, Whole], seed: int, until_s: float
) -> Iterator[tuple[int, Outcome]]:
    """Play rounds one after another, and begin none after a moment; yield their numbers and outcomes."""
    world.enter()
    for plan in plans:
        if time.monotonic() > until_s:
            return
        draw = random.Random(f"{seed} {plan.number}")
        moment = draw_moment(draw, wholes[plan.kind].ended, plan.phase, plan.signal)
        yield plan.number, play(world, plan.kind, wholes, moment)


def play_side_by_side(
    plans: Sequence[Plan], world: World, wholes: dict[Kind, Whole], seed: int, jobs: int, until_s: float
) -> Iterator[tuple[Plan, Outcome]]:
    """Share the rounds among processes, each with a world of its own, and yield their outcomes as they come."""
    pipes: dict[int, bytes] = {}
    children = []
    for job in range(jobs):
        own = World(world.root.with_name(f"job_{job}"), world.shared)
        shutil.copytree(world.root, own.root)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _write_outcomes(play_all(plans[job::jobs], own, wholes, seed, until_s), writing)
        os.close(writing)
        children.append(child)
        pipes[reading] = b""
    try:
        while pipes:
            for pipe in select.select(list(pipes), [], [])[0]:
                content = os.read(pipe, 65536)
                *lines, pipes[pipe] = (pipes[pipe] + content).split(b"\n")
                for line in lines:
                    number, values = json.loads(line)
                    yield plans[number], Outcome(**values)
                if not content:
                    del pipes[pipe]
                    os.close(pipe)
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def _write_outcomes(played: Iterator[tuple[int, Outcome]], pipe: int) -> None:
    """Play rounds in a process of their own, which ends with them, and write each outcome as a line."""
    try:
        # Whoever breaks off has the command under way ended, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        for number, outcome in played:
            os.write(pipe, (json.dumps([number, dataclasses.asdict(outcome)]) + "\n").encode())
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def report(arguments: argparse.Namespace, played: Sequence[tuple[Plan, Outcome]], seconds: float) -> str:
    """Return the outcomes as a Markdown section."""
    trained = [plan.kind for plan, _ in played if plan.kind.command == "train"]
    made = [kind.folder for kind in trained]
    lines = [
        f"## {len(played)} commands killed at random moments",
        "",
        f"{describe_machine('torch', 'lightning', 'transformers')}; seed {arguments.seed}, "
        f"{seconds / 60:.0f} minutes, {arguments.jobs} at a time. Of {len(trained)} runs "
        f"{sum(kind.has_lora for kind in trained)} trained LoRA, {sum(kind.num_workers > 0 for kind in trained)} had "
        "two processes that prepare batches; "
        f"{made.count(NEW)} were in new folders, {made.count(GOES_ON)} went on from a completed run, {made.count(REPLACES)} "
        "replaced one. Survived: all files whole, the record true, and the next command ends with the weights of the run that "
        "was never killed, to the bit. Left over: files, processes or locks after that.",
        "",
        "| where the signal came | rounds | SIGKILL | SIGTERM, SIGINT | survived | lost | left over |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {phase: [outcome for _, outcome in played if outcome.phase == phase] for phase in PHASES}
    rows["all"] = [outcome for _, outcome in played]
    for phase, outcomes in rows.items():
        if outcomes:
            killed = sum(outcome.number == signal.SIGKILL for outcome in outcomes)
            lost = sum(bool(outcome.lost) for outcome in outcomes)
            left = sum(bool(outcome.left) for outcome in outcomes)
            cells = [phase, len(outcomes), killed, len(outcomes) - killed, len(outcomes) - lost, lost, left]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def tell(plan: Plan, outcome: Outcome) -> None:
    """Print a line for a round, and what is wrong with it."""
    name = signal.Signals(outcome.number).name
    verdict = "lost" if outcome.lost else "left over" if outcome.left else "survived"
    print(f"{plan.number:4} {name} in {outcome.phase} (aimed at {plan.phase}): {outcome.kind}: {verdict}", file=sys.stderr)
    for line in [*outcome.lost, *(f"left over: {name}" for name in outcome.left)]:
        print(f"     {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Play the rounds and report; 1 if anything was lost or left over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, help="how many commands to kill")
    parser.add_argument("--seed", type=int, default=0, help="what everything is drawn from")
    parser.add_argument("--jobs", type=int, default=1, help="how many rounds are played at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round later than this")
    parser.add_argument("--phases", nargs="+", choices=list(_SHARES), default=list(_SHARES), help="where signals come")
    add_write_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # So that what the rounds work with is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plans = draw_plans(arguments.rounds, arguments.phases, arguments.seed)
    kinds = {plan.kind for plan in plans}
    began_s = time.monotonic()
    played = []
    with World.temporary() as world:
        world.build()
        warm_up(world)
        world.complete_bases(kinds)
        wholes = world.measure(kinds)
        until_s = began_s + 60 * arguments.minutes
        for plan, outcome in play_side_by_side(plans, world, wholes, arguments.seed, arguments.jobs, until_s):
            tell(plan, outcome)
            played.append((plan, outcome))
    publish(report(arguments, played, time.monotonic() - began_s), arguments.write)
    num_missing = len(plans) - len(played)
    if num_missing:
        print(f"{num_missing} of {len(plans)} rounds were not played", file=sys.stderr)
    return int(any(outcome.lost or outcome.left for _, outcome in played) or (num_missing > 0 and time.monotonic() < until_s))


if __name__ == "__main__":
    sys.exit(main())
