"""A run that simulates several clients of one trunk: its data, figures and files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from splitlearn.app import TrainResult, compose, train
from splitlearn.app.run_settings import settle_settings
from splitlearn.app.simulating import make_rounds, simulation_of
from splitlearn.loading import ModelFactory
from splitlearn.training import SimulatedClients
from splitlearn.training.callbacks import LAST, FederatedRounds

SHORT = ["data.block_size=16", "data.batch_size=2", "data.max_train_blocks=8", "data.max_val_blocks=2", "verbose=false"]
SHORT += ["data.max_train_rows=8", "data.max_val_rows=2"]
SHORT += ["trainer.enable_progress_bar=false", "logger=csv", "trainer.gradient_clip_val=0.5", "trainer.log_every_n_steps=1"]
SIMULATED = ["placement=simulated_clients", "data.partition=iid", "trainer.max_steps=4"]
CONFIGURATION = compose(*SHORT, *SIMULATED)


def run(folder: Path, *overrides: str) -> TrainResult:
    return train(compose(*SHORT, *SIMULATED, *overrides), folder=folder)


def parts_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    parts = ModelFactory.load_saved_parts(folder).parts
    return {part.spec.name: {key: tensor.detach() for key, tensor in part.named_parameters()} for part in parts}


def test_each_client_learns_from_its_own_rows(tmp_path: Path) -> None:
    rate = "optimizer.learning_rate=1e-2"
    result = run(tmp_path, rate)
    module = result.module
    assert isinstance(module, SimulatedClients) and list(module.clients) == ["client_1", "client_2"]
    assert result.trainer.global_step == 4 and len(result.datamodule.shares) == 2  # type: ignore[attr-defined]
    assert result.metrics["val_loss_after"] < result.metrics["val_loss_before"]
    metrics = result.trainer.callback_metrics
    assert {"val_loss/client_1", "val_loss/client_2"} <= metrics.keys()
    assert metrics["val_loss/client_1"] != metrics["val_loss/client_2"]
    first, second = parts_of(tmp_path / "parts"), parts_of(tmp_path / "clients" / "client_2" / "parts")
    assert all(tensor.equal(second["trunk"][name]) for name, tensor in first["trunk"].items())
    assert not any(tensor.equal(second["bottom"][name]) for name, tensor in first["bottom"].items())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["traffic"]["cut_1"]["activation_uplink_bytes"] == 4 * 2 * 16 * 128 * 4
    kept = torch.load(tmp_path / "checkpoints" / LAST, weights_only=True)
    assert kept["clients"].keys() == {"client_2"}
    longer = run(tmp_path, rate, "ckpt_path=last", "trainer.max_steps=6")
    assert longer.trainer.global_step == 6


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.partition=null"], "clients are several, but data.partition is null; set it to iid, dirichlet or a column"),
        (["data.share=1"], "data.share 1, but this run simulates all 2 clients; leave both null"),
        (["placement.server=localhost:1"], "placement.server is localhost:1, and placement.clients are several; leave it null"),
        (["placement.parties.server.address=h:1"], "server.address is h:1, and placement.clients are several; leave it null"),
        (["load_best_model_at_end=true"], "load_best_model_at_end is True, and placement.clients are several"),
        (["placement.clients=[a]"], r"placement.clients is \['a'\]; give two names or more, each once"),
        (["placement.clients=[a,b c]"], "placement.clients has 'b c'; a name is a letter followed by"),
        (["placement.order=free"], "placement.order is 'free'; use one of sequential, concurrent"),
    ],
)
def test_what_several_clients_cannot_do_is_refused(overrides: list[str], sentence: str) -> None:
    cfg = copy.deepcopy(CONFIGURATION)
    for override in overrides:
        name, value = override.split("=")
        OmegaConf.update(cfg, name, OmegaConf.create(f"value: {value}").value)
    with pytest.raises(ValueError, match=sentence):
        settle_settings(cfg)


ROUNDS = ["placement=splitfed_v2", "placement.rounds.folder=rounds", "placement.server=localhost:1", "data.partition=iid"]


def test_a_client_in_rounds_is_one_of_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose(*ROUNDS, "data.share=2", "placement.clients=[a,b,c]", "placement.average_every=3")
    settle_settings(cfg)
    assert cfg.data.num_shares == 3 and simulation_of(cfg) is None
    (rounds,) = make_rounds(cfg)
    assert isinstance(rounds, FederatedRounds) and (tmp_path / "rounds").is_dir()
    # Without a folder the same settings simulate all clients.
    cfg.placement.rounds.folder = None
    assert simulation_of(cfg) == {"clients": ["a", "b", "c"], "order": "sequential", "average_every": 3}
    assert make_rounds(cfg) == [] and make_rounds(compose()) == []


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["placement.server=null"], "folder is rounds, but no server has the trunk; set placement.server, or leave it null"),
        (["placement.average_every=null"], "but placement.average_every is null; set it to the number of steps in a round"),
        (["load_best_model_at_end=true"], "and load_best_model_at_end is true; set it to false"),
        (["data.num_shares=3"], "data.num_shares is 3, but placement.clients names 2; give all clients' names there"),
        (["data.share=null"], "data.share does not say whose rows this run trains with"),
        (["placement.clients=[a]"], r"placement.clients is \['a'\]; give two names or more, each once"),
    ],
)
def test_rounds_that_cannot_be_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        settle_settings(compose(*ROUNDS, "data.share=1", *overrides))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"activation_cache": {"keep": "memory"}}, "activation_cache.keep is memory, which keeps one client's data; take none"),
        ({"defence": {"nopeek": {"weight": 1.0}}}, "defence has nopeek, which is for one client; take defence=none"),
    ],
)
def test_what_is_made_for_one_client_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SimulatedClients("model", 1, 2, simulation={"clients": ["a", "b"]}, **settings)
