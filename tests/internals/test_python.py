"""What of Python is not public and this library uses."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util

import pytest

from tests.internals.relied_upon import Internal, check

INTERNALS = [
    Internal("multiprocessing.util", "register_after_fork", "folders of processes that prepare batches", ("obj", "func")),
    Internal(
        "multiprocessing.util", "Finalize", "removing these folders", ("obj", "callback", "args", "kwargs", "exitpriority")
    ),
    Internal(multiprocessing.current_process, "_config", "naming these folders: where multiprocessing makes its sockets"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("Python", internal)
