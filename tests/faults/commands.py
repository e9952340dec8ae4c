"""Commands in processes of their own that have started no thread before, as gRPC needs it, and that import nothing anew."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_IMPORTED = ["splitlearn.cli", "splitlearn.app.training", "splitlearn.app.serving", "splitlearn.parties", __name__]
_IMPORTED += ["grpc_health.v1.health_pb2_grpc"]
_LONGEST = 100


@dataclass(frozen=True)
class Command:
    """A command that runs beside the test.

    Attributes:
        process: its process.
        output: what it writes to standard output and error.
    """

    process: ForkServerProcess
    output: Path

    @property
    def number(self) -> int:
        """The process's number, for signals."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.output.read_text(encoding="utf-8")

    def end(self) -> int | None:
        """Wait for its end, and return its exit status, negative for a signal."""
        self.process.join(_LONGEST)
        return self.process.exitcode

    def says(self, text: str) -> bool:
        """Wait until it has said something, or has ended."""
        while self.process.is_alive() and text not in self.text:
            time.sleep(0.02)
        return text in self.text


def start(folder: Path, *arguments: str, prepare: Callable[[], object] | None = None) -> Command:
    """Start a command of the command line.

    Args:
        folder: where it runs.
        arguments: of the command line.
        prepare: called in its process first; a function of a module, perhaps with arguments bound to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output"
    output.write_text("")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    process = context.Process(target=_run, args=(folder, output, arguments, prepare, dict(os.environ)), daemon=True)
    process.start()
    return Command(process, output)


def _run(
    folder: Path, output: Path, arguments: tuple[str, ...], prepare: Callable[[], object] | None, environment: dict[str, str]
) -> None:
    from splitlearn.cli import main

    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    os.chdir(folder)
    # A test that goes wrong must not hang, and says where it did.
    faulthandler.register(signal.SIGALRM, file=descriptor, chain=True)
    signal.alarm(_LONGEST)
    if prepare is not None:
        prepare()
    sys.argv = ["splitlearn", *arguments]
    main()
