"""Several clients train one trunk over mutual TLS: their runs depend on their order alone, and are those of one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from splitlearn.certificates import Identity
from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelRequest
from splitlearn.model import ComposedCausalLM, trained_parameters
from splitlearn.parties import (
    Conversation,
    GrpcConnection,
    PartServer,
    PartyError,
    PartyService,
    ServedPart,
    ServiceSettings,
    Sharing,
    add_port,
    join,
    join_parts,
)
from splitlearn.rounds import Ends, RoundFolder
from splitlearn.rounds.agreeing import common_start
from splitlearn.training import SimulatedClients, SplitCausalLM, TrainingSettings, count_supervised
from splitlearn.training.callbacks import FederatedRounds
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.simulated_clients import average_ends
from tests.parties.conftest import LIMITS, QUICK
from tests.training.test_remote_steps import LossLog

CLIENTS = ("alice", "bob")
CUT = (2, 4)
STEPS = 4
# Steps of a round.
EVERY = 2
CLIP = 0.5
SETTINGS: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_fraction": 0.5}}
Identify = Callable[..., Identity]


class Delays(Callback):
    """Has a client take its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self._seconds)


def batches(client: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(client)
    ids = [torch.randint(3, 50, (2 + client, 8), generator=generator) for _ in range(STEPS)]
    return [{"input_ids": ids_BT, "labels": ids_BT} for ids_BT in ids]


def make_module(checkpoint: Path, microbatches: int = 1) -> SplitCausalLM:
    torch.manual_seed(0)
    return SplitCausalLM(str(checkpoint), *CUT, microbatches=microbatches, **SETTINGS)


class Server:
    """A trunk that several clients train, served by this process."""

    def __init__(self, checkpoint: Path, order: str, identity: Identity, **settings: Any) -> None:
        steps = STEPS * (len(CLIENTS) if order == "sequential" else 1)
        served = ServedPart(ModelRequest(str(checkpoint), *CUT), "trunk", TrainingSettings.from_plain(**SETTINGS))
        self.part = PartServer(served, sharing=Sharing(CLIENTS, order, steps))
        chosen = ServiceSettings(max_clients=3, **settings)
        self.service = PartyService(lambda client: Conversation(self.part, client or ""), chosen, LIMITS)
        self.server = grpc.server(
            ThreadPoolExecutor(self.service.num_threads), handlers=[self.service], options=QUICK.server_options(LIMITS)
        )
        self.port = add_port(self.server, "localhost:0", identity)
        self.server.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.service.stop("the test is over", 1.0)
        self.server.stop(0).wait()

    def connect(self, module: SplitCausalLM, checkpoint: Path, identity: Identity) -> GrpcConnection:
        connection = GrpcConnection(f"localhost:{self.port}", identity, QUICK, LIMITS, "the server of the trunk")
        opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
        trunk = join(connection, opened, module.settings, module.generators)
        module.connect({"trunk": cast(PartElsewhere, trunk)})
        # Two threads must not load at once.
        module.load_parts()
        return connection

    def trunk(self) -> dict[str, torch.Tensor]:
        assert self.part.served.prepared is not None
        state: dict[str, torch.Tensor] = self.part.served.prepared.owner.state()["state_dict"]
        return {name: tensor.clone() for name, tensor in state.items()}


class Saves(Callback):
    """Saves a checkpoint after the second step of each client."""

    def __init__(self, path: Path, num_batches: int = 2) -> None:
        self._path, self._last = path, num_batches - 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self._last:
            trainer.save_checkpoint(self._path)


def fit(
    module: SplitCausalLM,
    connection: GrpcConnection,
    client: int,
    delay: float,
    folder: Path | None,
    goes_on: bool,
    rounds: Path | None = None,
) -> list[float]:
    log = LossLog(draws=False)
    further = [] if rounds is None else [FederatedRounds(rounds / str(client), EVERY, 300.0)]
    path = None if folder is None else folder / f"{client}.ckpt"
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        gradient_clip_val=CLIP,
        callbacks=[log, Delays(delay), *further, *([] if path is None or goes_on else [Saves(path)])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    rows = batches(client)
    held_out = rows[:1]
    if goes_on:
        # This loader begins with its first row, wherever the run was.
        rows = rows[2:] + rows[:2]
    loaders: list[Any] = [DataLoader(chosen, batch_size=None) for chosen in (rows, held_out)]  # type: ignore[arg-type]
    trainer.fit(module, loaders[0], loaders[1], ckpt_path=path if goes_on else None, weights_only=True)
    connection.close()
    return [*log.losses, float(trainer.callback_metrics["val_loss"])]


def with_server(
    checkpoint: Path,
    order: str,
    identity: Identify,
    delays: tuple[float, ...],
    folder: Path | None = None,
    goes_on: bool = False,
    rounds: Path | None = None,
    microbatches: int = 1,
) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    modules = [make_module(checkpoint, microbatches) for _ in CLIENTS]
    with Server(checkpoint, order, identity("server")) as server, ThreadPoolExecutor(len(CLIENTS)) as pool:
        connections = [
            server.connect(module, checkpoint, identity(name)) for module, name in zip(modules, CLIENTS, strict=True)
        ]
        chosen = ((folder, goes_on, rounds) for _ in CLIENTS)
        runs = zip(modules, connections, range(len(CLIENTS)), delays, chosen, strict=True)
        losses = list(pool.map(lambda run: fit(*run[:-1], *run[-1]), runs))
        return losses, server.trunk()


def gradients_of(*optimizers: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the gradients in the order of a client's groups: bottom, trunk, top."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    groups.sort(key=lambda group: ("bottom", "trunk", "top").index(group["name"].split("/")[0]))
    return [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]


class OneProcess:
    """Trains with plain loops: an optimizer for the trunk, and one for the ends of each client."""

    def __init__(self, checkpoint: Path, trunk_steps: int) -> None:
        self.modules = [make_module(checkpoint) for _ in CLIENTS]
        for module in self.modules:
            module.load_parts()
        trunk, optimization = self.modules[0].parts[1], self.modules[0].optimization
        self.parameters = list(trunk.parameters())
        self.models = [ComposedCausalLM(module.parts[0], trunk, module.parts[2]) for module in self.modules]
        self.own = [optimization.make_optimizer((model.bottom, model.top)) for model in self.models]
        self.shared = optimization.make_optimizer([trunk])
        self.schedules: dict[torch.optim.Optimizer, Any] = {
            optimizer: optimization.make_schedule(optimizer, STEPS) for optimizer in self.own
        }
        self.schedules[self.shared] = optimization.make_schedule(self.shared, trunk_steps)
        self.losses: list[list[float]] = [[] for _ in CLIENTS]

    def run(self, client: int, number: int) -> None:
        ids_BT = batches(client)[number]["input_ids"]
        logits = self.models[client](ids_BT, use_cache=False).logits
        loss = self.models[client].top.loss(logits, ids_BT, count_supervised(ids_BT))
        loss.backward()
        self.losses[client].append(float(loss.detach()))

    def coefficient(self, client: int) -> torch.Tensor:
        norm = torch.nn.utils.get_total_norm(gradients_of(self.own[client], self.shared))
        return torch.clamp(CLIP / (norm + 1e-6), max=1.0)

    def step(self, optimizer: torch.optim.Optimizer, clip: torch.Tensor) -> None:
        torch._foreach_mul_(gradients_of(optimizer), clip)
        optimizer.step()
        optimizer.zero_grad()
        self.schedules[optimizer].step()

    def take_turns(self, number: int) -> None:
        for client, optimizer in enumerate(self.own):
            self.run(client, number)
            clip = self.coefficient(client)
            self.step(optimizer, clip)
            self.step(self.shared, clip)

    def step_together(self, number: int) -> None:
        shares = []
        for client in range(len(CLIENTS)):
            self.run(client, number)
            shares.append([cast(torch.Tensor, parameter.grad) for parameter in self.parameters])
            self.shared.zero_grad()
        for place, parameter in enumerate(self.parameters):
            parameter.grad = shares[0][place] / 2 + shares[1][place] / 2
        clips = [self.coefficient(client) for client in range(len(CLIENTS))]
        for optimizer, clip in zip(self.own, clips, strict=True):
            self.step(optimizer, clip)
        self.step(self.shared, torch.stack(clips).min())

    def weights(self) -> dict[str, torch.Tensor]:
        content: dict[str, Any] = {}
        self.modules[0].on_save_checkpoint(content)
        return dict(content["state_dict"])


def in_one_process(checkpoint: Path, order: str) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    one = OneProcess(checkpoint, STEPS * (len(CLIENTS) if order == "sequential" else 1))
    for number in range(STEPS):
        (one.take_turns if order == "sequential" else one.step_together)(number)
    for client in range(len(CLIENTS)):
        # What is held out is the first batch.
        one.run(client, 0)
    return one.losses, one.weights()


def simulated(
    checkpoint: Path, order: str, path: Path | None = None, goes_on: bool = False, microbatches: int = 1, **simulation: Any
) -> tuple[list[list[float]], SimulatedClients]:
    torch.manual_seed(0)
    simulation |= {"clients": CLIENTS, "order": order}
    module = SimulatedClients(str(checkpoint), *CUT, simulation=simulation, microbatches=microbatches, **SETTINGS)
    log, in_turn = LossLog(draws=False), order == "sequential"
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS * (len(CLIENTS) if in_turn else 1),
        accumulate_grad_batches=1 if in_turn else len(CLIENTS),
        gradient_clip_val=CLIP,
        callbacks=[log, *([] if path is None or goes_on else [Saves(path, 2 * len(CLIENTS))])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    rows = [batch for of_step in zip(*map(batches, range(len(CLIENTS))), strict=True) for batch in of_step]
    if goes_on:
        rows = rows[2 * len(CLIENTS) :] + rows[: 2 * len(CLIENTS)]
    loader: Any = DataLoader(rows, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=path if goes_on else None, weights_only=True)
    return [log.losses[client :: len(CLIENTS)] for client in range(len(CLIENTS))], module


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_a_simulation_is_the_run_of_the_clients(order: str, tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    expected, weights = in_one_process(checkpoint, order)
    losses, module = simulated(checkpoint, order)
    assert losses == [of_client[:-1] for of_client in expected]
    content: dict[str, Any] = {}
    module.on_save_checkpoint(content)
    # The trunk, and the ends of the first client.
    assert all(tensor.equal(weights[name]) for name, tensor in content["state_dict"].items())
    assert content["clients"].keys() == {"bob"}


@pytest.mark.filterwarnings("ignore:.* your dataloader is not resumable")
@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_a_simulation_goes_on_from_a_checkpoint(order: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint, path = tiny_checkpoint("gpt2", attn_pdrop=0.1), tmp_path / "two.ckpt"
    expected, whole = simulated(checkpoint, order, path)
    losses, module = simulated(checkpoint, order, path, goes_on=True)
    assert losses == [of_client[2:] for of_client in expected]
    for client in CLIENTS:
        pairs = zip(whole.clients[client].composed.parameters(), module.clients[client].composed.parameters(), strict=True)
        assert all(own.equal(other) for own, other in pairs)
    content = torch.load(path, weights_only=True)
    for change, sentence in (
        ({"clients": {}}, r"the checkpoint is of none, and this run's are bob; set placement\.clients as it was"),
        ({"clients_under_way": True}, "written in the middle of a step of several clients"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            module.on_load_checkpoint({**content, **change})


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_clients_are_averaged_after_so_many_steps_of_each(order: str, tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    alone, _ = simulated(checkpoint, order)
    for every, is_averaged in ((STEPS, True), (STEPS - 1, False)):
        losses, module = simulated(checkpoint, order, average_every=every)
        # Until then nothing has changed.
        assert [of_client[:every] for of_client in losses] == [of_client[:every] for of_client in alone]
        alice, bob = (client.composed for client in module.clients.values())
        pairs = zip(alice.top.parameters(), bob.top.parameters(), strict=True)
        assert all(own.equal(other) for own, other in pairs) == is_averaged
    own, other = (next(model.top.parameters()).detach().double().clone() for model in (alice, bob))
    average_ends(list(module.clients.values()), [1, 3])
    # A client with more rows counts more.
    assert torch.equal(next(alice.top.parameters()), (own * 0.25 + other * 0.75).float())


def average(folders: list[RoundFolder]) -> list[list[Ends]]:
    """Do what an app of rounds does, and return what clients have offered in each round."""
    rounds = []
    for number in range(STEPS // EVERY + 1):
        offered = [folder.ends(300.0, at_least=number, start_seconds=300.0) for folder in folders]
        mean = common_start([ends.tensors for ends in offered], [ends.num_examples for ends in offered])
        for folder in folders:
            folder.bring(number, mean)
        rounds.append(offered)
    return rounds


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_rounds_with_a_server_are_those_of_the_simulation(
    order: str, tiny_checkpoint: Callable[..., Path], identity: Identify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitlearn.rounds.round_folder._POLL_SECONDS", 0.005)
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    expected, module = simulated(checkpoint, order, average_every=EVERY)
    folders = [RoundFolder(tmp_path / str(client)) for client in range(len(CLIENTS))]
    with ThreadPoolExecutor(1) as pool:
        averaging = pool.submit(average, folders)
        losses, _ = with_server(checkpoint, order, identity, (0.0, 0.0), rounds=tmp_path)
        rounds = averaging.result()
    assert [of_client[:-1] for of_client in losses] == expected
    # What passes between a run and its app: no step, the tensors of a client's own parts, and three numbers.
    assert [[(ends.number, ends.rounds_left) for ends in offered] for offered in rounds] == [
        [(0, 2)] * 2,
        [(1, 1)] * 2,
        [(2, 0)] * 2,
    ]
    own = trained_parameters([module.models[0].bottom, module.models[0].top])
    assert all(ends.tensors.keys() == own.keys() for offered in rounds for ends in offered)
    # The mean makes a difference: clients have moved apart in each round.
    for one, other in rounds[1:]:
        assert any(not np.array_equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_runs_are_those_of_one_process_whoever_is_slow(
    order: str, tiny_checkpoint: Callable[..., Path], identity: Identify
) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    expected, weights = in_one_process(checkpoint, order)
    # In turn, the first client evaluates when the second has taken its last step, and not before.
    for delays in ((0.0, 0.05), (0.05, 0.0)):
        losses, trunk = with_server(checkpoint, order, identity, delays)
        assert losses == expected
        assert all(tensor.equal(weights[name]) for name, tensor in trunk.items())
    assert len(trunk) > 10


@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_microbatches_of_several_clients_are_those_of_the_simulation(
    order: str, tiny_checkpoint: Callable[..., Path], identity: Identify
) -> None:
    """Gradients of microbatches reach the server while its other client may be computing."""
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    expected, module = simulated(checkpoint, order, microbatches=2)
    for delays in ((0.0, 0.05), (0.05, 0.0)):
        losses, trunk = with_server(checkpoint, order, identity, delays, microbatches=2)
        assert [of_client[:-1] for of_client in losses] == expected
        own = trained_parameters([module.parts[1]])
        assert all(own[name].equal(tensor) for name, tensor in trunk.items())
    whole, _ = simulated(checkpoint, order)
    assert expected != whole


# Both go on with the epoch's first batch.
@pytest.mark.filterwarnings("ignore:.* your dataloader is not resumable")
@pytest.mark.parametrize("order", ["sequential", "concurrent"])
def test_all_clients_go_on_from_checkpoints_of_one_step(
    order: str, tiny_checkpoint: Callable[..., Path], identity: Identify, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    expected, weights = with_server(checkpoint, order, identity, (0.0, 0.0), tmp_path)
    losses, trunk = with_server(checkpoint, order, identity, (0.0, 0.0), tmp_path, goes_on=True)
    assert losses == [of_client[2:] for of_client in expected]
    assert all(tensor.equal(weights[name]) for name, tensor in trunk.items())


def test_a_client_that_only_measures_is_refused_and_costs_nobody_the_turn(
    tiny_checkpoint: Callable[..., Path], identity: Identify
) -> None:
    """Waiting for its turn, it would have no answer for as long as it is patient."""
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    opened = ModelRequest(str(checkpoint), *CUT).open(["bottom", "top"])
    with Server(checkpoint, "sequential", identity("server")) as server:
        for name in CLIENTS:
            module = make_module(checkpoint)
            connection = GrpcConnection(f"localhost:{server.port}", identity(name), QUICK, LIMITS)
            with pytest.raises(
                PartyError, match=r"several clients train the trunk at this server.*started without clients and"
            ):
                join_parts(connection, opened, module.settings, module.generators, ["trunk"], measures=True)
            connection.close()
        # Its training begins as if it had never asked.
        server.connect(make_module(checkpoint), checkpoint, identity("alice")).close()


def test_clients_that_do_not_belong_or_resume_are_refused(tiny_checkpoint: Callable[..., Path], identity: Identify) -> None:
    checkpoint = tiny_checkpoint("llama", attention_dropout=0.0)
    with Server(checkpoint, "concurrent", identity("server")) as server:
        module = make_module(checkpoint)
        connection = server.connect(module, checkpoint, identity("alice"))
        (owner,) = module._loaded.step._remote._owners
        state = owner.state()
        owner.load_state({**state, "num_steps": 3})
        with pytest.raises(PartyError, match="alice goes on from step 2 of the trunk, which has taken 3 by now: have all"):
            owner.load_state({**state, "num_steps": 2})
        connection.close()
        with pytest.raises(
            PartyError, match="alice has had its run with this trunk; for another, or to go on, have the server"
        ):
            server.connect(make_module(checkpoint), checkpoint, identity("alice"))
        server.part._sharing = Sharing(("alice", "carol"), "concurrent", STEPS)
        with pytest.raises(PartyError, match="bob is none of the clients that train the trunk, which are alice, carol"):
            server.connect(make_module(checkpoint), checkpoint, identity("bob"))
