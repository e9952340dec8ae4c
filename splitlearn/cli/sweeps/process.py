"""One job in a process of its own: forked from a server that has imported the libraries, or spawned where there is no fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from splitlearn.cli.errors import sentence_of
from splitlearn.cli.signals import SIGNALS, end_at_once
from splitlearn.cli.sweeps.outcomes import LOG_FILE, Job, Report
from splitlearn.runs import HeldFolderError

# What the server imports once, for all jobs. The first runs the command; the others are libraries that it imports later.
_IMPORTED = ["splitlearn.app", "splitlearn.cli.train", "splitlearn.export", "peft", "datasets"]
_THREADS = "OMP_NUM_THREADS"
_HYDRA_VERSION = "1.3"


def make_context(n_jobs: int) -> BaseContext:
    """Return the context that starts jobs. Where there is fork, the server begins to import meanwhile.

    This process itself imports none of the libraries, so that no job inherits a GPU or threads that are in use.

    Args:
        n_jobs: how many run at a time; the processor's cores are divided among them, unless the environment says otherwise.
    """
    if n_jobs > 1:
        os.environ.setdefault(_THREADS, str(max(1, num_cores() // n_jobs)))
    # Asking torch whether there is a GPU must not set CUDA up where jobs are forked from.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    _start_tracker()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    # It ends with this process, and not by a signal from the terminal, while it imports.
    with _blocked_signals():
        forkserver.ensure_running()
    return context


def _start_tracker() -> None:
    """Start multiprocessing's own process that cleans up after others; it need not complain of what a killed job left."""
    if os.name != "posix":
        return
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(context: BaseContext, command: str, job: Job) -> tuple[BaseProcess, Connection]:
    """Start a job's process.

    Args:
        context: as `make_context` returned it.
        command: such as ``"train"``.
        job: the job.

    Returns:
        The process, and the connection over which it sends its `Report`.
    """
    receiver, sender = context.Pipe(duplex=False)
    # Not a daemon, since those may not start processes that prepare batches.
    process: BaseProcess = context.Process(target=_run, args=(command, job, sender), daemon=False)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    return process, receiver


def _run(command: str, job: Job, sender: Connection) -> None:
    """Run a job in this process, which was started for it alone, and report."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if hasattr(os, "setsid"):
        # Ctrl-C at the terminal is for the sweep, which passes it on once.
        os.setsid()
    end_at_once()
    _end_with_parent()
    _write_to(job.folder)
    try:
        sender.send(_run_with_hydra(command, job.config))
    except Exception as error:
        traceback.print_exc()
        sender.send(Report(error=_sentence(error)))


def _run_with_hydra(command: str, config: DictConfig) -> Report:
    """Run a job as Hydra's own launcher does, and return its report."""
    # Hydra's callbacks are made here: a job inherits no objects.
    from hydra._internal.callbacks import Callbacks

    version.setbase(_HYDRA_VERSION)
    setup_globals()
    JobRuntime.instance().set("name", config.hydra.job.name)
    HydraConfig.instance().set_config(config)
    import_module(f"splitlearn.cli.{command}")
    from splitlearn.cli.command import TASKS

    loader: Any = None
    done = run_job(
        hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks(config)),
        task_function=TASKS[command],
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status is JobStatus.COMPLETED:
        return Report(done.return_value)
    try:
        done.return_value  # noqa: B018
    except HeldFolderError as error:
        return Report(error=str(error), is_held=True)
    except Exception as error:
        traceback.print_exc()
        return Report(error=_sentence(error))
    return Report(error="Hydra did not run it")


def _sentence(error: Exception) -> str:
    # It is short enough for a pipe that nobody reads yet.
    return sentence_of(error) or type(error).__name__


def _write_to(folder: Path) -> None:
    """Have what this process prints go to a file in the job's folder, and let it read nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for descriptor in (log, nothing):
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _end_with_parent() -> None:
    """Have this process stop as by SIGTERM once the one that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with the sweep").start()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
