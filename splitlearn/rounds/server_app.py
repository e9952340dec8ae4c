"""The server app for Flower: after each round one of Flower's strategies averages the clients' bottoms and tops.

It holds neither data nor a model, and imports neither torch nor transformers. It may run anywhere, also with one of the
clients.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp, strategy
from safetensors.numpy import save_file

from splitlearn.files import whole_file
from splitlearn.rounds.agreeing import agree_on_rounds, common_start
from splitlearn.rounds.round_folder import Arrays

# Those of Flower's strategies that average tensors, and ask no more of clients than their tensors.
STRATEGIES = (
    *("FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi", "FedMedian", "FedTrimmedAvg"),
    *("Krum", "MultiKrum", "Bulyan"),
)

# How long clients may take to hear that the rounds have ended.
_END_SECONDS = 60.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Have the clients do their rounds, and give them the mean after each."""
    config = context.run_config
    nodes = wait_for_clients(grid, int(config["clients"]), float(config["start-seconds"]))
    try:
        do_rounds(grid, nodes, config)
    except Exception as error:
        # The others' runs would wait for a mean that does not come.
        told = RecordDict({"config": ConfigRecord({"reason": str(error)})})
        list(grid.send_and_receive(_messages(nodes, "query.end", told), timeout=_END_SECONDS))
        raise


def do_rounds(grid: Grid, nodes: list[int], config: Mapping[str, Any]) -> None:
    """Do all rounds of some clients, whatever comes of them.

    Args:
        grid: by which messages go.
        nodes: of the clients.
        config: the app's settings.

    Raises:
        ValueError: the clients' runs do not agree, or a setting is out of range.
        RuntimeError: a client has failed.
    """
    started = ask(grid, nodes, "query.start", RecordDict({"config": ConfigRecord()}), float(config["start-seconds"]))
    figures = [reply["metrics"] for reply in started]
    number, rounds = agree_on_rounds(
        [int(own["number"]) for own in figures], [int(own["rounds-left"]) for own in figures], int(config["rounds"])
    )
    own = [to_numpy(reply["arrays"]) for reply in started]
    averaging = make_strategy(str(config["strategy"]), json.loads(str(config["strategy-settings"])), len(nodes))
    result = averaging.start(
        grid=grid,
        initial_arrays=to_record(common_start(own, [int(one["num-examples"]) for one in figures])),
        num_rounds=rounds,
        timeout=float(config["round-seconds"]),
        train_config=ConfigRecord({"start": number}),
    )
    last = RecordDict({"arrays": result.arrays, "config": ConfigRecord({"number": number + rounds})})
    ask(grid, nodes, "query.finish", last, float(config["round-seconds"]))
    if config["out"]:
        with whole_file(Path(str(config["out"]))) as file:
            save_file(to_numpy(result.arrays), file)


def wait_for_clients(grid: Grid, count: int, seconds: float) -> list[int]:
    """Return the nodes of the clients, once all are connected.

    Raises:
        TimeoutError: there are fewer of them.
        ValueError: there are more of them.
    """
    until = time.monotonic() + seconds
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(nodes)} of {count} SuperNodes have come in {seconds:g} s")
        time.sleep(1.0)
    if len(nodes) > count:
        raise ValueError(f"{len(nodes)} SuperNodes are connected, but clients is {count}; set it to their number")
    return nodes


def ask(grid: Grid, nodes: Iterable[int], kind: str, content: RecordDict, seconds: float) -> list[RecordDict]:
    """Send one message to all clients, and return their answers.

    Raises:
        RuntimeError: a client answers with an error, or not at all.
    """
    messages = _messages(nodes, kind, content)
    return [reply.content for reply in checked(grid.send_and_receive(messages, timeout=seconds), len(messages))]


def _messages(nodes: Iterable[int], kind: str, content: RecordDict) -> list[Message]:
    return [Message(content, message_type=kind, dst_node_id=node) for node in nodes]


def checked(replies: Iterable[Message], count: int) -> list[Message]:
    """Return the answers of all clients: a mean of some of them is none of the trunk's clients.

    Raises:
        RuntimeError: a client has answered with an error, or not at all.
    """
    answers = list(replies)
    for reply in answers:
        if reply.has_error():
            raise RuntimeError(f"the client of the node {reply.metadata.src_node_id} failed: {reply.error.reason}")
    if len(answers) != count:
        raise RuntimeError(f"{len(answers)} of {count} clients have answered in time; the others' runs and SuperNodes say why")
    return sorted(answers, key=lambda reply: reply.metadata.src_node_id)


class OfAllClients(strategy.Strategy):
    """Has a strategy of Flower average all clients, in double precision, and refuse a round that one has not been through."""

    num_clients: int

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Average the clients' tensors, which keep their dtypes."""
        answers = checked(replies, self.num_clients)
        dtypes: dict[str, Any] = {}
        for reply in answers:
            for key, record in list(reply.content.array_records.items()):
                tensors = to_numpy(record)
                dtypes |= {name: tensor.dtype for name, tensor in tensors.items()}
                reply.content[key] = to_record({name: tensor.astype(np.float64) for name, tensor in tensors.items()})
        arrays, metrics = super().aggregate_train(server_round, answers)
        if arrays is None:
            return None, metrics
        return to_record({name: tensor.astype(dtypes[name]) for name, tensor in to_numpy(arrays).items()}), metrics


def make_strategy(name: str, settings: Mapping[str, Any], count: int) -> OfAllClients:
    """Return a strategy of Flower that averages all clients.

    Args:
        name: of a class of ``flwr.serverapp.strategy``.
        settings: further arguments of the class.
        count: how many clients there are.

    Raises:
        ValueError: there is no such strategy, or it is none of those that do.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy is {name!r}; use one of {', '.join(STRATEGIES)}")
    # Flower's log names the class.
    kind: Any = type(name, (OfAllClients, getattr(strategy, name)), {"num_clients": count})
    needed = {"fraction_evaluate": 0.0, "min_train_nodes": count, "min_available_nodes": count}
    averaging: OfAllClients = kind(**{**needed, **settings})
    return averaging


def to_numpy(record: ArrayRecord) -> Arrays:
    """Return the tensors of a record of Flower."""
    # safetensors writes the wrong bytes of views.
    return {name: np.asarray(array.numpy(), order="C") for name, array in record.items()}


def to_record(tensors: Arrays) -> ArrayRecord:
    """Return tensors as a record of Flower."""
    return ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()})
