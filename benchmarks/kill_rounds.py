"""One round of kill.py: strike a command, look at what is there, run the command that follows, look again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kill_children import AFTER_END, Ended, Moment, call, run_command
from kill_world import NEW, REPLACES, Kind, Whole, World, digest_of_end, digests_of_steps

_LOCK = ".run.lock"
_STAYS = (_LOCK, ".hydra")
_NOTICES_S = 10.0
_ENDINGS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Outcome:
    """What came of a round.

    Attributes:
        kind: what was run, in words.
        phase: where the signal came.
        number: the signal.
        lost: what is not as promised, in words.
        left: what was left over, in words.
    """

    kind: str
    phase: str
    number: int
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def play(world: World, kind: Kind, wholes: Mapping[Kind, Whole], moment: Moment) -> Outcome:
    """Play a round in a world that is entered.

    Args:
        world: where.
        kind: what is run.
        wholes: what runs that were never struck ended with; that of a completed run is under its kind's `base_kind`.
        moment: when the signal comes.
    """
    before, out = world.paths(), world.work / "out"
    if kind.command == "train" and kind.folder != NEW:
        shutil.copytree(world.base(kind.has_lora), out)
    struck = run_command(world.settings(kind, out), world.output, moment)
    outcome = Outcome(str(kind), struck.struck_in or AFTER_END, moment.number)
    outcome.lost.extend(problems_of_status(struck, moment.number))
    look = look_at_run if kind.command == "train" else look_at_folder
    outcome.lost.extend(_in_a_child(world, lambda: look(world, kind, wholes[kind], struck, out)))
    if kind.command != "train" and out.exists():
        shutil.rmtree(out)
    again = run_command(world.settings_again(kind, out), world.output)
    if again.status != 0:
        outcome.lost.append(f"the next command ended with {again.status}: {again.text[-2000:]}")
    outcome.lost.extend(_in_a_child(world, lambda: look_at_end(wholes[kind], out)))
    outcome.left.extend(leftovers_within(out))
    outcome.left.extend(processes_of([struck.session, again.session]))
    shutil.rmtree(out, ignore_errors=True)
    outcome.left.extend(sorted(str(path.relative_to(world.root)) for path in world.paths() - before))
    return outcome


def problems_of_status(struck: Ended, number: int) -> Iterable[str]:
    """Say whether a struck command's exit status and words do not tell of the signal."""
    if struck.struck_in in (None, AFTER_END):
        return
    if struck.status != _ENDINGS[signal.Signals(number)]:
        yield f"{signal.Signals(number).name} in {struck.struck_in} gave status {struck.status}: {struck.text[-2000:]}"
    if "Traceback" in struck.text:
        yield f"a traceback: {struck.text[max(0, struck.text.index('Traceback') - 200) :][:2000]}"


def look_at_run(world: World, kind: Kind, whole: Whole, struck: Ended, folder: Path) -> Iterable[str]:
    """Say what is wrong with a struck run's folder: damaged files, an untrue record, a mixture taken for a model."""
    from splitlearn.runs import read_summary
    from splitlearn.verification import verify_saved_files

    summary = read_summary(folder)
    yield from (f"{file.file}: {file.problem}" for file in verify_saved_files(folder) if file.problem)
    if summary is None:
        # Logs may be there: the held-out loss of the base model is measured before the run owns its folder.
        saved = [path.name for path in folder.glob("*/*") if path.suffix in (".ckpt", ".pt", ".safetensors")]
        if saved:
            yield f"there are {', '.join(saved)}, but no record"
        return
    base = None if kind.folder == NEW else world.base(kind.has_lora)
    old = None if base is None else read_summary(base)
    is_old = old is not None and old.run_id == summary.run_id
    possible = {"completed"} if is_old else {"running", "completed"}
    if not is_old and struck.status != -signal.SIGKILL:
        possible.add("interrupted")
    if summary.status not in possible:
        yield f"the record of a run that ended with {struck.status} says {summary.status} ({summary.reason})"
    if summary.status == "completed":
        expected = digest_of_end(base) if base is not None and is_old else whole.end
        if digest_of_end(folder) != expected:
            yield "the record says completed, but the weights are not those of the end"
    # While a run is replaced its folder may still hold checkpoints of the earlier one, which no command takes.
    if kind.folder != REPLACES:
        yield from look_at_checkpoints(folder, [whole.steps, {} if base is None else digests_of_steps(base)])
    # Each use takes time, so a round tries two of three.
    use = "generate" if struck.session % 2 else "export ckpt=last"
    yield from look_at_uses(world, folder, ["export ckpt=null", use], must_work=summary.status == "completed")


def look_at_checkpoints(folder: Path, known: Iterable[Mapping[int, str]]) -> Iterable[str]:
    """Say which checkpoints are not a state of a run that was never struck."""
    for step, digest in digests_of_steps(folder).items():
        if all(steps.get(step) != digest for steps in known):
            yield f"the checkpoint of step {step} is none of the run that was never struck"


def look_at_uses(world: World, folder: Path, names: Iterable[str], must_work: bool) -> Iterable[str]:
    """Say which use of a run's folder neither works nor is refused in one sentence."""
    from splitlearn.app import compose, export, generate

    uses: dict[str, Callable[[], object]] = {}
    for ckpt in ("null", "last"):
        exported = world.work / f"exported_{ckpt}"
        uses[f"export ckpt={ckpt}"] = lambda ckpt=ckpt, exported=exported: export(
            compose(f"run={folder}", f"out={exported}", f"ckpt={ckpt}", config_name="export")
        )
    uses["generate"] = lambda: generate(compose(f"run={folder}", "prompt=Note", "max_new_tokens=2", config_name="generate"))
    for name in names:
        refusal = None
        try:
            uses[name]()
        except (ValueError, OSError) as error:
            # The command line says these in one sentence, and shows a traceback of others.
            refusal = str(error)
            if "\n" in refusal or not refusal:
                yield f"{name} is refused, but not in one sentence: {refusal}"
        except Exception:
            yield f"{name}: {traceback.format_exc()}"
            continue
        if name != "export ckpt=last" and must_work != (refusal is None):
            yield f"{name} of a run that did {'' if must_work else 'not '}complete {'works' if refusal is None else refusal}"
        if name == "export ckpt=null" and refusal is None and not any((world.work / "exported_null").glob("*.safetensors")):
            yield f"{name} wrote nothing"
    for path in world.work.glob("exported_*"):
        shutil.rmtree(path)


def look_at_folder(world: World, kind: Kind, whole: Whole, struck: Ended, out: Path) -> Iterable[str]:
    """Say what is wrong with what a struck export or prepare left: its folder is there whole or not at all."""
    if out.exists() and digest_of_end(out) != whole.end:
        yield f"{out.name} is there, but not whole: {sorted(path.name for path in out.iterdir())}"


def look_at_end(whole: Whole, out: Path) -> Iterable[str]:
    """Say what differs from the command that was never struck, once the next one has ended."""
    from splitlearn.runs import read_summary

    if digest_of_end(out) != whole.end:
        yield "the weights differ from those of the run that was never struck"
    if whole.steps:
        summary = read_summary(out)
        if summary is None or not summary.is_completed:
            yield "the record does not say completed"
        last = digests_of_steps(out)
        if last.get(max(whole.steps)) != whole.steps[max(whole.steps)]:
            yield "the last checkpoint differs from that of the run that was never struck"


def leftovers_within(folder: Path) -> Iterable[str]:
    """Name what is hidden or temporary in a run's folder, and a lock that is still held."""
    for path in folder.rglob("*"):
        if (path.name.startswith(".") and path.name not in _STAYS) or path.name.endswith(".tmp"):
            yield str(path.relative_to(folder))
    with suppress(FileNotFoundError), (folder / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield f"the lock {_LOCK} is held"


def processes_of(sessions: Iterable[int]) -> list[str]:
    """Name the processes that stay of commands that have ended; torch's notice their parent's end within five seconds."""
    wanted, until_s, there = set(sessions), time.monotonic() + _NOTICES_S, [""]
    while there and time.monotonic() < until_s:
        there = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in wanted:
                    there.append(f"process {process.pid} {process.status()}")
        time.sleep(0.1 if there else 0.0)
    return there


def _in_a_child(world: World, look: Callable[[], Iterable[str]]) -> list[str]:
    """Look in a forked process, so that what is read leaves nothing in this one; return what it says."""
    answer = world.root.parent / f"{world.root.name}.json"

    def say() -> None:
        answer.write_text(json.dumps(list(look())), encoding="utf-8")

    ended = call(say, world.output)
    if ended.status != 0:
        return [f"looking at it ended with {ended.status}: {ended.text[-2000:]}"]
    said: list[Any] = json.loads(answer.read_text(encoding="utf-8"))
    return [str(line) for line in said]
