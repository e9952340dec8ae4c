"""Trying inputs without end, in processes that may die of one."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given

from tests.fuzz.damage import inputs
from tests.fuzz.targets import KEPT, Target, Workshop, workshop
from tests.fuzz.watch import BrokenPromiseError

_BATCH = 50
# How long an input that broke a promise is made simpler.
_SIMPLER_S = 15.0
# How long a process may be silent beyond its time before it is ended.
_PATIENCE_S = 120.0


@dataclass
class Outcome:
    """What came of fuzzing one target.

    Attributes:
        inputs: how many inputs were tried.
        read: how many of them were read by everything that reads them.
        cpu_s: seconds of a processor that were spent on them.
        problems: how a promise was broken, with the file that was kept.
    """

    inputs: int = 0
    read: int = 0
    cpu_s: float = 0.0
    problems: list[str] | None = None


def fuzz(shop: Workshop, target: Target, seconds: float, first_seed: int, keeps: bool = True) -> Outcome:
    """Try inputs of a target in a process of its own; one that breaks a promise is kept in the repository.

    Args:
        shop: the folder with all seeds.
        target: the target.
        seconds: how long.
        first_seed: decides which inputs.
        keeps: whether inputs are kept.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, context = Path(temporary), multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(shop, target, seconds, first_seed, keeps, folder / "last", sender))
        process.start()
        sender.close()
        outcome = None
        try:
            if receiver.poll(seconds + _PATIENCE_S):
                outcome = receiver.recv()
        except EOFError:
            pass
        if outcome is None:
            process.kill()
        process.join()
        if outcome is None:
            # It died of its last input, or came to no end.
            content = (folder / "last").read_bytes() if (folder / "last").is_file() else b""
            problem = f"the process ended with {process.exitcode}"
            return Outcome(problems=[_keep(target, content, problem) if keeps else problem])
        return outcome


def _work(shop: Workshop, target: Target, seconds: float, first_seed: int, keeps: bool, last: Path, sender: Any) -> None:
    # The fork has all that is imported already.
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome = Outcome(problems=[])
    until_s, known = time.monotonic() + seconds, set[str]()
    while time.monotonic() < until_s:
        first_seed += 1
        broken = _batch(shop, target, first_seed, until_s, known, last, outcome)
        if broken is not None:
            known.add(broken[0].place)
            outcome.problems = outcome.problems or []
            outcome.problems.append(_keep(target, broken[1], str(broken[0])) if keeps else str(broken[0]))
    outcome.cpu_s = time.process_time()
    sender.send(outcome)


def _batch(
    shop: Workshop, target: Target, seed: int, until_s: float, known: set[str], last: Path, outcome: Outcome
) -> tuple[BrokenPromiseError, bytes] | None:
    """Try some inputs; return the first new way in which a promise is broken, by the simplest input that hypothesis finds."""
    found: list[tuple[BrokenPromiseError, bytes]] = []
    found_s: list[float] = []
    seeds = [shop.seeds[target.name], *(path.read_bytes() for path in target.kept)]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_BATCH,
        database=None,
        derandomize=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(inputs(target.form, seeds))
    def attempt(content: bytes) -> None:
        if time.monotonic() > (found_s[0] + _SIMPLER_S if found_s else until_s):
            return
        last.write_bytes(content)
        outcome.inputs += 1
        try:
            outcome.read += not any(shop.attempt(target, content))
        except BrokenPromiseError as broken:
            # While it is made simpler, an input may break another promise.
            if broken.place in known or (found and found[0][0].place != broken.place):
                return
            found[:] = [(broken, content)]
            found_s.append(time.monotonic())
            raise

    with contextlib.suppress(BrokenPromiseError, hypothesis.errors.Flaky):
        attempt()
    return found[0] if found else None


def _keep(target: Target, content: bytes, problem: str) -> str:
    """Write an input where the suite reads it from now on; return a line that tells it."""
    name = hashlib.sha256(content).hexdigest()[:12]
    path = KEPT / target.name / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"{path}: {problem}"


def fuzz_all(targets: Sequence[Target], minutes: float) -> bool:
    """Fuzz targets for some minutes in all, and print what came of it.

    Returns:
        Whether every promise was kept.
    """
    first_seed, is_good = int(time.time()) * 1000, True
    with tempfile.TemporaryDirectory() as temporary, workshop(Path(temporary)) as shop:
        for target in targets:
            outcome = fuzz(shop, target, minutes * 60 / len(targets), first_seed)
            (shop.folder / target.file).write_bytes(shop.seeds[target.name])
            problems = outcome.problems or []
            is_good = is_good and not problems
            counts = f"{outcome.inputs:7,} inputs, {outcome.read:7,} of them read, {outcome.cpu_s:4.0f} CPU seconds"
            print(f"{target.name:18} {counts}, {len(problems)} problems", flush=True)
            for problem in problems:
                print(f"  {problem}", flush=True)
    return is_good
