"""Two clients and the server of their trunk, the same in one process by plain loops, and as a simulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from splitlearn.certificates import Identity
from splitlearn.loading import ModelRequest
from splitlearn.model import ComposedCausalLM
from splitlearn.parties import (
    Conversation,
    GrpcConnection,
    PartServer,
    PartyService,
    ServedPart,
    ServiceSettings,
    Sharing,
    add_port,
    join,
)
from splitlearn.training import SimulatedClients, SplitCausalLM, TrainingSettings, count_supervised
from splitlearn.training.callbacks import FederatedRounds
from splitlearn.training.part_owner import PartElsewhere
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
