"""Runs whose top is at a server, alone or with the trunk: `train` with servers is `train` in one process, to the bit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from splitlearn.app import TrainResult, compose, evaluate, generate, train
from splitlearn.app.placing import resolve_placement
from splitlearn.app.serving import make_part_server
from splitlearn.cut import PlacementError
from splitlearn.parties import Conversation, PartServer, PartyService, Patience, add_port
from splitlearn.runs import read_summary
from splitlearn.training.callbacks import LAST
from tests.run_comparison import assert_alike, content

# A head that is tied to the embedding would be trained by two parties.
MODEL = ["model.untie=true"]
SHORT = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=12", "data.max_val_blocks=4", "trainer.max_steps=3"]
SHORT += ["trainer.enable_progress_bar=false", "verbose=false", "logger=none", "trainer.gradient_clip_val=0.5", *MODEL]
SERVERS = {"vanilla": {"server": "[trunk,top]"}, "linear": {"server_1": "trunk", "server_2": "top"}}


@contextmanager
def listening(part: str, *overrides: str) -> Iterator[tuple[str, PartServer]]:
    """Serve parts in this process, in the clear; yield the address."""
    held = make_part_server(compose(f"part={part}", "verbose=false", *MODEL, *overrides, config_name="serve"))
    service = PartyService(lambda client: Conversation(held, client or "client"))
    pool = ThreadPoolExecutor(service.num_threads)
    server = grpc.server(pool, handlers=[service], options=Patience().server_options(held.limits.wire))
    port = add_port(server, "localhost:0", None)
    server.start()
    try:
        yield f"localhost:{port}", held
    finally:
        service.stop("the test is over", 1.0)
        server.stop(0).wait()


@contextmanager
def servers_of(placement: str, *overrides: str) -> Iterator[list[str]]:
    """Serve all parts of a placement; yield the overrides of a run with them."""
    with ExitStack() as stack:
        there = {party: stack.enter_context(listening(part, *overrides))[0] for party, part in SERVERS[placement].items()}
        yield [f"placement.parties.{party}.address={address}" for party, address in there.items()]


def at(addresses: list[str]) -> str:
    """Return the override by which a finished run finds its servers."""
    return f"server={{{', '.join(address.split('.', 2)[2].replace('.address=', ': ') for address in addresses)}}}"


def say(result: TrainResult, *overrides: str) -> list[str]:
    asked = [f"run={result.folder}", "prompt=What is", "max_new_tokens=8"]
    return generate(compose(*asked, *overrides, config_name="generate"))


def test_a_run_with_two_servers_is_that_of_one_process(tmp_path: Path) -> None:
    one = train(compose(*SHORT, "placement=linear"), folder=tmp_path / "one")
    with servers_of("linear") as addresses:
        two = train(compose(*SHORT, "placement=linear", *addresses), folder=tmp_path / "two")
        asked = at(addresses)
        assert evaluate(compose(f"run={two.folder}", asked, config_name="evaluate"))["loss"] == two.metrics["val_loss_after"]
        assert say(two, asked) == say(one)
    # Servers that were started anew are given the state of a checkpoint.
    with servers_of("linear") as addresses:
        with pytest.raises(ValueError, match=r"the trunk at localhost:\d+ has taken 0 steps, and 3 are wanted"):
            say(two, at(addresses))
        base = evaluate(compose(f"run={two.folder}", "base=true", at(addresses), config_name="evaluate"))
        assert base["loss"] == two.metrics["val_loss_before"]
        assert say(two, at(addresses), "ckpt=last") == say(one)
    record = assert_alike(one, two)
    # Each process has loaded its own parts.
    assert [part["part"] for part in record.loading or []] == ["bottom"]
    figures = record.server or {}
    assert [part["part"] for part in figures["loading"]["parts"]] == ["trunk", "top"]
    assert figures["sent_bytes"] == sum(party["sent_bytes"] for party in figures["parties"].values())


ATTACK = ["attack=quick", "attack.attacks=[ridge,labels,responses]", "attack.cuts=[2]", "attack.directions=[forward,backward]"]
ATTACK += ["attack.test_pieces=4", "attack.auxiliary_pieces=24", "attack.tokens=16", "attack.budgets.labels.seconds=null"]
ATTACK += ["attack.recording_seconds=null", "attack.budgets.ridge.seconds=null", "attack.prompts=2"]


@pytest.mark.parametrize("codec", ["exact", "int8"])
def test_a_run_with_a_server_is_attacked_as_that_of_one_process_and_stays_what_it_is(codec: str, tmp_path: Path) -> None:
    own = [*SHORT, f"boundary={codec}", "data.max_train_rows=12", "data.max_val_rows=3"]
    one = train(compose(*own, *ATTACK), folder=tmp_path / "one")
    with listening("trunk", f"boundary={codec}") as (address, held):
        two = train(compose(*own, *ATTACK, f"placement.server={address}"), folder=tmp_path / "two")
        assert held.num_steps == 3
    with listening("trunk", f"boundary={codec}") as (address, _):
        alone = train(compose(*own, f"placement.server={address}"), folder=tmp_path / "alone")
    records = [assert_alike(one, run) for run in (two, alone)]
    expected, found = (read_summary(run.folder) for run in (one, two))
    assert expected is not None and found is not None and expected.attacks and found.attacks
    assert records[1].attacks is None

    def recoveries(attacks: dict[str, Any], *left_out: str) -> dict[tuple[str, str], float]:
        results = [result for result in attacks["attacks"] if result["attack"] not in left_out]
        return {(result["attack"], result["direction"]): result["token_recovery"] for result in results}

    for moment in (lambda attacks: attacks, lambda attacks: attacks["before"]):
        assert recoveries(moment(found.attacks)) == recoveries(moment(expected.attacks), "responses")
    assert set(recoveries(found.attacks)) == {("ridge", "forward"), ("labels", "backward")}
    (left_out,) = found.attacks["left_out"]
    assert left_out["attack"] == "responses" and "another holds the trunk" in left_out["reason"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["placement=vanilla"], "the top is at a server, which keeps it to itself; set attack=none"),
        (["attack.directions=[averaging]"], "takes gradients of the trunk, and a server would keep them"),
        (["attack.directions=[backward]"], "takes gradients of the trunk, and a server would keep them"),
    ],
)
def test_attacks_that_a_server_cannot_take_part_in_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    own = ["attack=quick", "attack.attacks=[ridge,labels,bag_of_tokens]", "attack.cuts=[1]", *overrides]
    with (
        pytest.raises(ValueError, match=message),
        listening("[trunk,top]" if "vanilla" in overrides[0] else "trunk") as (at, _),
    ):
        train(compose(*SHORT, *own, f"placement.server={at}"), folder=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["placement=linear", "placement.server=a:1"], "there are 2 servers; set placement.parties.server_1.address and"),
        (["placement=one_party", "placement.server=a:1"], "'owner' holds all parts; take placement=u_shaped or vanilla"),
        (["placement=linear", "placement.parties.server_1.address=a:1"], "placement.parties.server_2.address is null, but"),
        (["placement.parties.client.address=a:1"], "'client' has the data and runs in this process; leave it null"),
        (["placement.server=a:1", "placement.parties.server.address=b:1"], "set one of them"),
        (["placement.server=a"], "placement.server is 'a'; give HOST:PORT"),
    ],
)
def test_addresses_that_do_not_fit_the_placement_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(PlacementError, match=re.escape(message)):
        resolve_placement(compose("placement=u_shaped", *overrides), elsewhere=True)


@pytest.mark.parametrize("part", ["5", "bottom", "[top,middle]", "[top,top]"])
def test_parts_that_no_server_can_hold_are_refused_before_weights_are_read(part: str) -> None:
    with pytest.raises(ValueError, match=r"^part is .*(give|a server holds).* \[trunk, top\]"):
        make_part_server(compose(f"part={part}", config_name="serve"))


def test_the_best_parts_are_put_back_on_both_sides(tmp_path: Path) -> None:
    # The warm-up begins at 0, so the first step changes nothing; the later ones with such a rate undo all that was learned.
    own = ["placement=u_shaped", "load_best_model_at_end=true", "eval_steps=1"]
    rate = ["optimizer.learning_rate=1", "optimizer.warmup_fraction=0.7"]
    with listening("trunk", *rate) as (address, held):
        result = train(compose(*SHORT, *own, *rate, f"placement.server={address}"), folder=tmp_path / "run")
        assert held.served.prepared is not None
        state = held.served.prepared.owner.state()
    best = next(file for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt") if file.name != LAST)
    expected, last = torch.load(best, weights_only=True), content(result)
    assert held.num_steps == state["num_steps"] == expected["global_step"] < last["global_step"] == 3
    assert all(tensor.equal(expected["state_dict"][name]) for name, tensor in state["state_dict"].items())
    assert not all(tensor.equal(last["state_dict"][name]) for name, tensor in state["state_dict"].items())
