"""Commands in forked processes that say in which phase they are, so that they can be struck in it.

The process that forks them has imported everything, so a command begins after a few milliseconds. The child marks its phase by
writing one byte into a pipe when it enters or leaves it. Whoever strikes reads the marks: they tell when a phase began, and
after the child's death in which phase it died.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of a run: settings, data and checks before it loads its model, and what lies between the other phases.
ELSEWHERE = "elsewhere"
AFTER_END = "after the end"
PHASES = (ELSEWHERE, "load", "train", "validate", "checkpoint", "save parts", "record", "export", "prepare", AFTER_END)
# A command that is not done by then hangs.
_TIMEOUT_S = 180.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Moment:
    """When to strike.

    Attributes:
        phase: one of `PHASES`.
        visit: how often the phase was entered before.
        offset_s: seconds after it was entered.
        number: the signal.
    """

    phase: str
    visit: int
    offset_s: float
    number: int


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; negative for a signal.
        text: standard output and error.
        marks: the phases in order, each with the seconds from the command's begin.
        struck_in: the phase in which the signal came; None if none was sent.
        session: number of the session of the command's processes.
    """

    status: int
    text: str
    marks: list[tuple[str, float]]
    struck_in: str | None
    session: int

    def visits(self, phase: str) -> list[float]:
        """Return how many seconds each visit to a phase took."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [end_s - begin_s for (name, begin_s), (_, end_s) in pairs if name == phase]


def draw_moment(draw: random.Random, whole: Ended, phase: str, number: int) -> Moment:
    """Draw a moment of a phase, each with the same chance, by how long its visits took in a run that was not struck."""
    visits = whole.visits(phase)
    offset_s = draw.random() * sum(visits)
    for visit, seconds in enumerate(visits):
        if offset_s < seconds:
            return Moment(phase, visit, offset_s, number)
        offset_s -= seconds
    return Moment(phase, 0, 0.0, number)


def run_command(arguments: Sequence[str], output: Path, moment: Moment | None = None) -> Ended:
    """Run a command of the command line in a forked process, and strike it at a moment.

    Args:
        arguments: the command's name and settings.
        output: a file for what it prints.
        moment: when to strike; None for never.
    """
    from splitlearn.cli import main

    def work(marks: _Marks) -> None:
        sys.argv = ["splitlearn", *arguments]
        _mark_phases(marks)
        main()

    first = arguments[0] if arguments[0] in PHASES else ELSEWHERE
    return _run(work, output, first, moment)


def call(task: Callable[[], object], output: Path) -> Ended:
    """Call a function in a forked process; its exit status is 1 if it raises."""
    return _run(lambda marks: task(), output, ELSEWHERE, None)


class _Marks:
    """The child's end of the pipe, and the phases it is in, from the outermost to the innermost."""

    def __init__(self, pipe: int, first: str) -> None:
        self._pipe, self._stack, self._process = pipe, [first], os.getpid()
        self._write()

    def enter(self, phase: str) -> None:
        self._stack.append(phase)
        self._write()

    def leave(self) -> None:
        self._stack.pop()
        self._write()

    def _write(self) -> None:
        # Processes that prepare batches are copies of the child.
        if os.getpid() == self._process:
            os.write(self._pipe, bytes([PHASES.index(self._stack[-1])]))

    def within(self, owner: Any, name: str, phase: str) -> None:
        """Mark a phase around each call of a function."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def marked(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            try:
                return original(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, marked)


def _mark_phases(marks: _Marks) -> None:
    from lightning.pytorch import Trainer

    from splitlearn.app import training
    from splitlearn.app.recorder import Recorder
    from splitlearn.training import SplitCausalLM, WholeFileCheckpointIO

    marks.within(SplitCausalLM, "load_parts", "load")
    marks.within(Trainer, "fit", "train")
    marks.within(Trainer, "validate", "validate")
    marks.within(SplitCausalLM, "validation_step", "validate")
    marks.within(WholeFileCheckpointIO, "save_checkpoint", "checkpoint")
    marks.within(training, "save_trained", "save parts")
    marks.within(Recorder, "complete", "record")


def _run(work: Callable[[_Marks], object], output: Path, first: str, moment: Moment | None) -> Ended:
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _be_child(work, output, writing, first)
    os.close(writing)
    try:
        return _watch(process, reading, output, moment)
    finally:
        os.close(reading)


def _be_child(work: Callable[[_Marks], object], output: Path, pipe: int, first: str) -> None:
    from splitlearn.cli.signals import end_at_once

    status = 1
    try:
        # The processes of a command can be found by their session, also once they have lost their parent.
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        end_at_once()
        marks = _Marks(pipe, first)
        try:
            work(marks)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        marks.enter(AFTER_END)
        # What Python does when a process ends: processes that prepare batches are stopped, temporary folders removed.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _watch(process: int, pipe: int, output: Path, moment: Moment | None) -> Ended:
    began_s = time.monotonic()
    marks: list[tuple[str, float]] = []
    strike_s: float | None = None
    struck_in: str | None = None
    try:
        while not _is_over(process):
            now_s = time.monotonic()
            if now_s - began_s > _TIMEOUT_S:
                os.kill(process, signal.SIGKILL)
            wait_s = _POLL_S if strike_s is None else min(_POLL_S, max(0.0, strike_s - now_s))
            _read_marks(pipe, wait_s, began_s, marks)
            if moment is not None and struck_in is None:
                strike_s = _strike_time(marks, moment, began_s)
                if strike_s is not None and time.monotonic() >= strike_s:
                    _read_marks(pipe, 0.0, began_s, marks)
                    struck_in = marks[-1][0]
                    _strike(process, moment.number)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    _read_marks(pipe, 0.0, began_s, marks)
    if struck_in is not None and status == -signal.SIGKILL:
        # It died at once, so its last mark tells the phase better than what was read before.
        struck_in = marks[-1][0]
    return Ended(status, output.read_text(encoding="utf-8", errors="replace"), marks, struck_in, process)


def _is_over(process: int) -> bool:
    """Return whether a child has ended; it stays to be waited for, so its number is not given to another process."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _read_marks(pipe: int, wait_s: float, began_s: float, marks: list[tuple[str, float]]) -> None:
    while select.select([pipe], [], [], wait_s)[0]:
        content = os.read(pipe, 4096)
        now_s = time.monotonic() - began_s
        marks += [(PHASES[number], now_s) for number in content]
        wait_s = 0.0
        if not content:
            time.sleep(_POLL_S)
            return


def _strike_time(marks: Sequence[tuple[str, float]], moment: Moment, began_s: float) -> float | None:
    entries = [at_s for name, at_s in marks if name == moment.phase]
    return None if len(entries) <= moment.visit else began_s + entries[moment.visit] + moment.offset_s


def _strike(process: int, number: int) -> None:
    if number == signal.SIGINT:
        # A terminal sends Ctrl-C to all processes of the command.
        os.killpg(process, number)
    else:
        os.kill(process, number)
