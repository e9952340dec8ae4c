"""What a run changes of its process, put back once it is over."""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# Errors whose message says where the fault is. Of others the traceback is kept.
_SAY_ALL = (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError)


def leaving_no_trace(task: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Have a function leave signal handlers, environment variables and torch's settings as it found them.

    Its objects are freed once its result is dropped. An error does not keep them: local variables leave its traceback, and the
    traceback itself goes where the message says all, unless ``HYDRA_FULL_ERROR=1`` asks for everything. Ctrl-C ends the
    function with KeyboardInterrupt, where Lightning would exit the process, and SIGTERM with an exit status of 143.
    """

    @wraps(task)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        # Modules and their trainer refer to each other, so an earlier run's are freed only here, before memory is measured.
        gc.collect()
        try:
            with ExitStack() as stack:
                for keep in (_signal_handlers, _environment, _torch_settings):
                    stack.enter_context(keep())
                return task(*args, **kwargs)
        except BaseException as error:
            # Lightning turns Ctrl-C into sys.exit(1), and SIGTERM into an exit with 0.
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            if isinstance(error, SIGTERMException):
                raise SystemExit(128 + signal.SIGTERM) from None
            if os.environ.get("HYDRA_FULL_ERROR") != "1":
                _let_go(error)
            raise

    return run


@contextmanager
def _signal_handlers() -> Iterator[None]:
    """Put signal handlers back: a Ctrl-C before training begins makes Lightning ignore any other for good."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                # None stands for a handler that Python did not install.
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)


@contextmanager
def _environment() -> Iterator[None]:
    """Put environment variables back: Lightning keeps the seed there, and loggers their settings."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _torch_settings() -> Iterator[None]:
    """Put back what a Trainer's arguments set for the whole process."""
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    dtype, benchmark = torch.get_default_dtype(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)
        torch.set_default_dtype(dtype)
        torch.backends.cudnn.benchmark = benchmark


def _let_go(error: BaseException) -> None:
    """Have an error no longer hold what it passed: whoever keeps it, as notebooks do, would keep the model in memory."""
    says_all = not isinstance(error, Exception) or isinstance(error, _SAY_ALL)
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            links += [link.__cause__, link.__context__]
            traceback.clear_frames(link.__traceback__)
            if says_all:
                # A cleared frame still holds its function, and that the objects of functions around it.
                link.__traceback__ = None
