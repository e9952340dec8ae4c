"""Processes that break off where a test says, forked from this one, which has imported what they need."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from splitlearn.cli import main


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, negative for a signal, and what it wrote to standard output and error."""

    status: int
    text: str


@dataclass(frozen=True)
class Forked:
    """A process that goes on beside the test."""

    process: int
    output: Path

    def wait(self) -> Ended:
        """Wait for its end."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        text = self.output.read_text(encoding="utf-8")
        self.output.unlink()
        return Ended(status, text)


def start(work: Callable[[], object]) -> Forked:
    """Call a function in a forked process, whose exit status is 0 if it returns and 1 if it raises, as of a script."""
    descriptor, name = tempfile.mkstemp()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(descriptor)
        return Forked(process, Path(name))
    status = 1
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # pytest has put files of its own in their place.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        # A test that goes wrong must not hang, and says where it did.
        faulthandler.register(signal.SIGALRM, file=descriptor, chain=True)
        signal.alarm(100)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(work: Callable[[], object]) -> Ended:
    """Call a function as `start` does, and wait for the end of its process."""
    return start(work).wait()


def run_command(*arguments: str, prepare: Callable[[], object] = lambda: None) -> Ended:
    """Run a command of the command line in a process of its own in which something is prepared first."""

    def work() -> None:
        prepare()
        sys.argv = ["splitlearn", *arguments]
        main()

    return run(work)


def die() -> None:
    """End this process as the system does it when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
