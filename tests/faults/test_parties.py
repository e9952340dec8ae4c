"""Parties in processes of their own that are killed, stopped, or lose one another: each says which, and goes on to the bit."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.app import compose, train
from splitlearn.app.models import request_of
from splitlearn.parties import InProcessConnection, PartServer, ServedPart, join
from splitlearn.parties.part_work import PartWork
from splitlearn.randomness import NamedGenerators
from splitlearn.runs import read_summary
from splitlearn.training import SplitCausalLM, StepOrder, TrainingSettings
from tests.faults.commands import Command, start
from tests.parties.cut_link import CutLink

SHORT = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=16", "data.max_val_blocks=2", "trainer.max_steps=6"]
SHORT += ["trainer.enable_progress_bar=false", "verbose=false", "logger=none", "trainer.gradient_clip_val=0.5"]
SHORT += ["save_steps=2"]
PATIENCE = {"reconnect": 1, "keepalive": 1, "keepalive_timeout": 1}
# How long a busy machine may take for what takes a second or two.
SOON = 40.0
STRUCK = "the signal has come"


def strike_in(owner: type, name: str, count: int, number: int) -> None:
    """Have a signal come as a method of a class is called for the ``count``th time."""
    original = getattr(owner, name)
    calls: list[str] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == count:
            print(STRUCK, flush=True)
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, call)


Serve = Callable[..., tuple[Command, str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers in the clear, and returns each with its address; they are killed after the test."""
    servers: list[Command] = []

    def begin(name: str = "server", *settings: str, prepare: Callable[[], object] | None = None) -> tuple[Command, str]:
        ready = tmp_path / name / "ready"
        own = {"port": 0, "ready_file": ready, "verbose": "false", "threads": 1, "folder": tmp_path / name / "kept"}
        own |= dict(setting.split("=", 1) for setting in settings)
        server = start(tmp_path / name, "serve", *(f"{key}={value}" for key, value in own.items()), prepare=prepare)
        servers.append(server)
        while not ready.is_file():
            assert server.process.is_alive(), server.text
            time.sleep(0.02)
        return server, ready.read_text().strip()

    yield begin
    for server in servers:
        server.process.kill()
        server.end()


def client(folder: Path, address: str, *settings: str, prepare: Callable[[], object] | None = None) -> Command:
    patience = [f"placement.patience.{name}={seconds}" for name, seconds in PATIENCE.items()]
    own = [f"placement.server={address}", *patience, f"hydra.run.dir={folder / 'run'}"]
    return start(folder, "train", *SHORT, *own, *settings, prepare=prepare)


def trained(run: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return tensors


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What is trained by the same run in one process that nothing happens to."""
    return trained(train(compose(*SHORT), folder=tmp_path_factory.mktemp("one") / "run").folder)


def is_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(found[name].equal(tensor) for name, tensor in expected.items())


def is_told(text: str, *words: str) -> bool:
    """Whether a command has ended with one sentence that has these words."""
    (sentence,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return all(word in sentence for word in words) and "Traceback" not in text


@pytest.mark.parametrize("phase", ["_forward", "_backward"])
def test_a_server_that_is_killed(phase: str, serve: Serve, tmp_path: Path) -> None:
    """Fault: the server is killed in forward or backward. Promise: the client says soon that it is lost, and how to go on."""
    server, address = serve(prepare=partial(strike_in, PartWork, phase, 4, signal.SIGKILL))
    run = client(tmp_path / "client", address)
    assert server.end() == -signal.SIGKILL
    killed = time.monotonic()
    assert run.end() == 2 and time.monotonic() - killed < SOON
    assert is_told(run.text, f"the server of the trunk at {address} cannot be reached", "ckpt_path=last")
    record = read_summary(tmp_path / "client" / "run")
    assert record is not None and record.status == "failed"


def test_a_server_that_is_killed_and_started_anew(serve: Serve, tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Fault: the server is killed in a step and started anew at once. Promise: the client does not train on with a part that
    lacks steps; it says so, and goes on from its checkpoint, to the bit.
    """
    server, address = serve(prepare=partial(strike_in, PartWork, "_step", 4, signal.SIGKILL))
    run = client(tmp_path / "client", address, "placement.patience.reconnect=60")
    assert server.end() == -signal.SIGKILL
    serve("anew", f"port={address.rpartition(':')[2]}")
    assert run.end() == 2 and is_told(run.text, "the server was started anew", "resume both sides from checkpoints")
    assert client(tmp_path / "client", address, "ckpt_path=last").end() == 0
    assert is_equal(trained(tmp_path / "client" / "run"), expected)


def test_a_client_that_is_killed(serve: Serve, tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """Fault: the client is killed in a step, goes on as a new process, loses its connection twice and is stopped meanwhile.
    Promise: the server goes on, and the run ends as if nothing had happened, to the bit.
    """
    _, address = serve()
    in_step = partial(strike_in, SplitCausalLM, "optimizer_step")
    killed = client(tmp_path / "client", address, prepare=partial(in_step, 4, signal.SIGKILL))
    assert killed.end() == -signal.SIGKILL
    with CutLink(int(address.rpartition(":")[2])) as link:
        again = partial(in_step, 2, signal.SIGSTOP)
        run = client(tmp_path / "client", f"localhost:{link.port}", "ckpt_path=last", prepare=again)
        assert run.says(STRUCK), run.text
        link.cut_after = [9_000, 40_000]
        link.cut()
        time.sleep(2.5)
        os.kill(run.number, signal.SIGCONT)
        assert run.end() == 0, run.text
        assert link.num_connections >= 3
    assert is_equal(trained(tmp_path / "client" / "run"), expected)


def test_one_of_two_servers_is_killed(serve: Serve, tmp_path: Path) -> None:
    """Fault: of the servers of trunk and top one is killed in backward and started anew with the other. Promise: the client
    says which is lost; it goes on from its checkpoint, which has the share of both, to the bit.
    """
    untied = ["placement=linear", "model.untie=true"]

    def begin(name: str, prepare: Callable[[], object] | None = None) -> tuple[list[Command], list[str]]:
        servers = [
            serve(f"{name} {part}", f"part={part}", "model.untie=true", prepare=prepare if part == "top" else None)
            for part in ("trunk", "top")
        ]
        return [server for server, _ in servers], [
            f"placement.parties.server_{number}.address={address}" for number, (_, address) in enumerate(servers, 1)
        ]

    (_, top), addresses = begin("first", partial(strike_in, PartWork, "_backward", 4, signal.SIGKILL))
    run = client(tmp_path / "client", "null", *untied, *addresses)
    assert top.end() == -signal.SIGKILL
    killed = time.monotonic()
    assert run.end() == 2 and time.monotonic() - killed < SOON
    address = addresses[1].partition("=")[2]
    assert is_told(run.text, f"the server of the top at {address} cannot be reached", "ckpt_path=last")
    _, addresses = begin("anew")
    again = client(tmp_path / "client", "null", *untied, *addresses, "ckpt_path=last")
    assert again.end() == 0, again.text
    whole = train(compose(*SHORT, *untied), folder=tmp_path / "one")
    assert is_equal(trained(tmp_path / "client" / "run"), trained(whole.folder))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    command = start(folder, "certificates", f"out={folder / 'trial'}", "parties=[server,alice,bob]")
    assert command.end() == 0, command.text
    return folder / "trial"


def last_checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


@pytest.mark.parametrize(("order", "steps"), [("sequential", 12), ("concurrent", 6)])
def test_one_of_several_clients_is_killed(order: str, steps: int, serve: Serve, certificates: Path, tmp_path: Path) -> None:
    """Fault: of two clients one is killed in a step. Promise: once its session has expired the other says who was lost and
    what to do; both go on from checkpoints of one step with a server that was started anew, to the bit.
    """
    clients = "clients=[alice,bob]"

    def begin(server: str, *goes_on: str, prepare: Callable[[], object] | None = None) -> tuple[Command, Command]:
        how = [f"certificates={certificates / 'server'}", clients, f"order={order}", f"steps={steps}"]
        _, address = serve(server, *how, "limits.session_seconds=2")

        def begin_client(name: str, share: int, prepare: Callable[[], object] | None = None) -> Command:
            data = ["data.partition=iid", "data.num_shares=2", f"data.share={share}"]
            own = [f"placement.certificates={certificates / name}", *data, *goes_on]
            return client(tmp_path / name, address, *own, prepare=prepare)

        return begin_client("alice", 1), begin_client("bob", 2, prepare)

    alice, bob = begin("server", prepare=partial(strike_in, SplitCausalLM, "optimizer_step", 5, signal.SIGKILL))
    assert bob.end() == -signal.SIGKILL
    killed = time.monotonic()
    assert alice.end() == 2 and time.monotonic() - killed < SOON
    assert is_told(
        alice.text, "bob was lost", "have the server started anew, and all clients go on from checkpoints of one step"
    )
    for run in begin("anew", "ckpt_path=last"):
        assert run.end() == 0, run.text
    together = ["placement=simulated_clients", f"placement.{clients}", f"placement.order={order}", "data.partition=iid"]
    settings = compose(*SHORT, *together, f"trainer.max_steps={steps}")
    whole = last_checkpoint(train(settings, folder=tmp_path / "simulation").folder)
    ends = whole["clients"]["bob"]["state_dict"]
    for name, tensor in trained(tmp_path / "alice" / "run").items():
        # The first client's checkpoint of its last step has the trunk as it was then.
        assert name not in ends or tensor.equal(whole["state_dict"][name]), name
    # The last client's has it after all steps.
    assert is_equal(trained(tmp_path / "bob" / "run"), whole["state_dict"] | ends)


def test_a_server_that_is_stopped(serve: Serve, tmp_path: Path) -> None:
    """Fault: the server is stopped, or its machine hangs. Promise: the client says soon that it gives no sign of life; once
    the server goes on, it ends as usual and keeps its part.
    """
    server, address = serve(prepare=partial(strike_in, PartWork, "_backward", 4, signal.SIGSTOP))
    run = client(tmp_path / "client", address)
    assert server.says(STRUCK)
    stopped = time.monotonic()
    assert run.end() == 2 and time.monotonic() - stopped < SOON
    assert is_told(run.text, f"the server of the trunk at {address} did not answer within 1 s", "ckpt_path=last")
    os.kill(server.number, signal.SIGCONT)
    server.process.terminate()
    assert server.end() == 128 + signal.SIGTERM
    assert re.search(r"the trunk has taken \d steps; its state is in .*trunk.ckpt", server.text)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state that a server has kept of a trunk that has taken a step."""
    request = replace(request_of(compose(config_name="serve").model), split_point_1=2, split_point_2=6)
    settings = TrainingSettings()
    server = PartServer(ServedPart(request, "trunk", settings))
    trunk = join(InProcessConnection(server), request.open(["bottom", "top"]), settings, NamedGenerators(0))
    rates = {group["name"]: 0.1 for group in trunk.owner.group_settings()}
    trunk.owner.apply(StepOrder(0, rates))
    return server.save(tmp_path_factory.mktemp("kept"))


def test_a_full_disk_at_the_server(serve: Serve, kept: Path, tmp_path: Path) -> None:
    """Fault: the server's disk is full as it ends. Promise: one sentence with the path; what it had kept before is whole."""
    folder = tmp_path / "kept"
    shutil.copytree(kept.parent, folder)
    before = (folder / "trunk.ckpt").read_bytes()
    server, _ = serve("server", f"folder={folder}", f"state={folder / 'trunk.ckpt'}")
    resource.prlimit(server.number, resource.RLIMIT_FSIZE, (100_000, 100_000))
    server.process.terminate()
    assert server.end() == 128 + signal.SIGTERM
    assert is_told(server.text, str(folder / "trunk.ckpt"), "File too large", "in the client's last checkpoint")
    assert (folder / "trunk.ckpt").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["summary.json", "trunk.ckpt"]


def test_a_disk_without_room_for_the_servers_part(tmp_path: Path) -> None:
    """Fault: the server's disk has no room for its part. Promise: one sentence before weights are read."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    server = start(tmp_path, "serve", f"folder={tmp_path / 'kept'}", prepare=limit)
    assert server.end() == 2
    assert is_told(server.text, str(tmp_path / "kept" / "trunk.ckpt"), "File too large", "9.02 MiB are needed")
