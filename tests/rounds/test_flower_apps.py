"""The apps of the rounds with Flower's own messages and strategies, without its processes: `make test-splitfed` runs this file.

Flower is no part of the environment of the other tests, which wants newer packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from splitlearn.rounds import Ends, RoundFolder

pytest.importorskip("flwr.app", reason="flwr is the extra splitfed, which make test-splitfed has")

from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from splitlearn.rounds import client_app, server_app

SECONDS = 10.0
# Ids of nodes, with what a run adds to its weights in each of its rounds, and its number of blocks.
RUNS = {11: (1.0, 1), 12: (5.0, 3)}
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower names each of its processes, and a message says from which it comes."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def context(folder: Path | None = None, **config: Any) -> Context:
    settings = {"start-seconds": SECONDS, "round-seconds": SECONDS, "clients": len(RUNS), "rounds": 0, "out": ""}
    settings |= {"strategy": "FedAvg", "strategy-settings": "{}", **config}
    node = {} if folder is None else {"folder": str(folder)}
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=settings)


class InProcess:
    """Stands for Flower's connection: hands each message to the client's app, and keeps what kinds there were, by node."""

    def __init__(self, folder: Path) -> None:
        self.folders = {node: folder / str(node) for node in RUNS}
        self.kinds: dict[int, list[str]] = {node: [] for node in RUNS}
        self.contents: list[RecordDict] = []

    def get_node_ids(self) -> Iterable[int]:
        return self.folders

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        with ThreadPoolExecutor(len(RUNS)) as pool:
            return list(pool.map(self._hand_over, messages))

    def _hand_over(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        self.kinds[node].append(message.metadata.message_type)
        try:
            reply = client_app.app(message, context(self.folders[node]))
        except Exception as error:
            return Message(Error(code=1, reason=str(error)), reply_to=message)
        self.contents += [message.content, reply.content]
        return reply


def run(folder: RoundFolder, node: int, rounds: int, dtype: Any = np.float32, ends_after: int | None = None) -> Arrays:
    """Do what a client's run does, whose steps add to its weights, and return the last mean."""
    added, num_examples = RUNS[node]
    tensors = {"layer": np.zeros((2, 3), dtype), "scale": np.ones((), dtype)}
    with folder.held():
        folder.offer(Ends(0, tensors, num_examples, rounds))
        for number in range(1, rounds + 1):
            if number == ends_after:
                break
            tensors = {name: tensor + np.asarray(added, dtype) for name, tensor in tensors.items()}
            folder.offer(Ends(number, tensors, num_examples, rounds - number))
            tensors = folder.take(number, SECONDS)
    return tensors


@contextmanager
def runs(
    grid: InProcess, rounds: int, dtype: Any = np.float32, ends_after: int | None = None
) -> Iterator[list[Future[Arrays]]]:
    """The runs of all clients; the first may end before its time."""
    folders = {node: RoundFolder(path) for node, path in grid.folders.items()}
    with ThreadPoolExecutor(len(RUNS)) as pool:
        first = next(iter(RUNS))
        yield [
            pool.submit(run, folder, node, rounds, dtype, ends_after if node == first else None)
            for node, folder in folders.items()
        ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flower_carries_rounds_and_no_steps(tmp_path: Path, dtype: Any) -> None:
    grid = InProcess(tmp_path)
    with runs(grid, 2, dtype) as started:
        server_app.main(grid, context(out=str(tmp_path / "mean.safetensors")))
        ends = [of_client.result() for of_client in started]
    # Each round adds (1 + 3 * 5) / 4.
    for mean in (*ends, load_file(tmp_path / "mean.safetensors")):
        assert (mean["layer"] == 8).all() and mean["scale"] == 9 and mean["scale"].shape == ()
        assert {tensor.dtype for tensor in mean.values()} == {np.dtype(dtype)}
    assert set(map(tuple, grid.kinds.values())) == {("query.start", "train", "train", "query.finish")}
    # Weights and a few numbers, and nothing else.
    records = [record for content in grid.contents for record in content.values()]
    assert {name for record in records for name in record} == {
        *("layer", "scale"),
        *("num-examples", "number", "rounds-left", "start", "server-round"),
    }


def test_a_run_that_ends_early_ends_the_others(tmp_path: Path) -> None:
    grid = InProcess(tmp_path)
    with runs(grid, 2, ends_after=1) as started:
        with pytest.raises(RuntimeError, match=r"the client of the node 11 failed: no run takes part in rounds in .*11; start"):
            server_app.main(grid, context())
        with pytest.raises(ValueError, match=r"ended before round 1 was averaged: the client of the node 11 failed"):
            started[1].result()
    assert grid.kinds[12] == ["query.start", "train", "query.end"]


@pytest.mark.parametrize("name", server_app.STRATEGIES)
def test_every_strategy_that_is_named_can_be_made(name: str) -> None:
    averaging = server_app.make_strategy(name, {}, 7)
    assert type(averaging).__name__ == name
    assert averaging.num_clients == 7 and averaging.min_train_nodes == 7


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: server_app.make_strategy("FedProx", {}, 2), "strategy is 'FedProx'; use one of FedAvg, FedAvgM"),
        (lambda: server_app.checked([], 2), "0 of 2 clients have answered in time"),
        (lambda: client_app._folder_of(context()), "does not know its run: start it with --node-config"),
    ],
)
def test_errors_are_sentences(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        call()


def test_other_numbers_of_supernodes_are_refused(tmp_path: Path) -> None:
    grid: Any = InProcess(tmp_path)
    with pytest.raises(TimeoutError, match="2 of 3 SuperNodes have come in 0 s"):
        server_app.wait_for_clients(grid, 3, 0.0)
    with pytest.raises(ValueError, match="2 SuperNodes are connected, but clients is 1; set it to their number"):
        server_app.wait_for_clients(grid, 1, 0.0)
