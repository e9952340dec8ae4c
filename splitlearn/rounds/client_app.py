"""A client's app for Flower. Its ``train`` message has the client's run do one round, as a client of the trunk's server.

Flower starts a process for each message, so the run is a process of its own that lasts: `RoundFolder` is where the two meet.
The app reads neither the model nor the data, and imports neither torch nor transformers.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from splitlearn.rounds.round_folder import Ends, RoundFolder

app = ClientApp()


@app.query("start")
def start(message: Message, context: Context) -> Message:
    """Answer with what the run has, once it waits for its first mean."""
    seconds = float(context.run_config["start-seconds"])
    return _answer(message, _folder_of(context).ends(seconds, start_seconds=seconds))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Give the run the mean, have it do a round, and answer with what it has then."""
    config = message.content["config"]
    number = int(config["start"]) + int(config["server-round"]) - 1
    folder = _folder_of(context)
    _bring(folder, number, message)
    return _answer(message, folder.ends(float(context.run_config["round-seconds"]), at_least=number + 1))


@app.query("finish")
def finish(message: Message, context: Context) -> Message:
    """Give the run the last mean."""
    _bring(_folder_of(context), int(message.content["config"]["number"]), message)
    return Message(RecordDict({"config": ConfigRecord()}), reply_to=message)


@app.query("end")
def end(message: Message, context: Context) -> Message:
    """Have the run end, since there will be no further mean."""
    _folder_of(context).end(str(message.content["config"]["reason"]))
    return Message(RecordDict({"config": ConfigRecord()}), reply_to=message)


def _folder_of(context: Context) -> RoundFolder:
    folder = context.node_config.get("folder")
    if not folder:
        raise ValueError("this SuperNode does not know its run: start it with --node-config 'folder=\"FOLDER\"'")
    return RoundFolder(str(folder))


def _bring(folder: RoundFolder, number: int, message: Message) -> None:
    folder.bring(number, {name: array.numpy() for name, array in message.content["arrays"].items()})


def _answer(message: Message, ends: Ends) -> Message:
    arrays = ArrayRecord({name: Array(tensor) for name, tensor in ends.tensors.items()})
    figures = MetricRecord({"num-examples": ends.num_examples, "number": ends.number, "rounds-left": ends.rounds_left})
    return Message(RecordDict({"arrays": arrays, "metrics": figures}), reply_to=message)
