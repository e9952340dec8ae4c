"""Several clients train one trunk over mutual TLS: their runs depend on their order alone, and are those of one process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitlearn.checkpoint import CheckpointError
from splitlearn.loading import ModelRequest
from splitlearn.model import trained_parameters
from splitlearn.parties import (
    GrpcConnection,
    PartyError,
    Sharing,
    join_parts,
)
from splitlearn.rounds import Ends, RoundFolder
from splitlearn.rounds.agreeing import common_start
from splitlearn.training.simulated_clients import average_ends
from tests.parties.conftest import LIMITS, QUICK
from tests.parties.two_clients import (
    CLIENTS,
    CUT,
    EVERY,
    STEPS,
    Identify,
    Server,
    in_one_process,
    make_module,
    simulated,
    with_server,
)


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
