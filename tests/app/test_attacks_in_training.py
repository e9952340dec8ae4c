"""Runs that are attacked while they are trained are the runs that they are without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.app import TrainResult, compose, train

SHORT = ["trainer.max_steps=3", "data.max_train_blocks=24", "data.max_val_blocks=8", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "callbacks.throughput.counts_flops=false", "save_parts=false"]
SHORT += ["data.max_train_rows=12", "data.max_val_rows=3"]
SMALL = ["attack=quick", "attack.attacks=[nearest_embedding,ridge]", "attack.test_pieces=4", "attack.auxiliary_pieces=32"]
SMALL += ["attack.tokens=16"]

# The best state is attacked in the end, once it is in the module.
BEST = "load_best_model_at_end=true"


def run(folder: Path, *overrides: str) -> TrainResult:
    return train(compose(*SHORT, *overrides), folder=folder)


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return record


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("attacked"), *SMALL, BEST)


def test_the_record_has_what_attacks_recovered(attacked: TrainResult) -> None:
    found = record_of(attacked.folder)["attacks"]
    assert [result["attack"] for result in found["attacks"]] == ["nearest_embedding", "ridge"]
    assert found["headline"]["token_recovery"] == max(result["token_recovery"] for result in found["attacks"])
    assert (found["moment"], found["step"]) == ("after", 3)
    assert (found["before"]["moment"], found["before"]["step"]) == ("before", 0)
    assert len(found["before"]["attacks"]) == 2
    assert found["headline"]["token_recovery"] > 0.5, "a ridge map reads the first layers of a tiny model"


def test_the_run_is_the_same_without_attacks(attacked: TrainResult, tmp_path: Path) -> None:
    alone = run(tmp_path, BEST)
    expected = dict(alone.module.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in attacked.module.named_parameters())
    names = ("val_loss_before", "val_loss_after", "train_steps", "train_tokens")
    assert {name: attacked.metrics[name] for name in names} == {name: alone.metrics[name] for name in names}
    mine, others = record_of(attacked.folder), record_of(tmp_path)
    for key in ("traffic", "memory", "rows", "threat_model"):
        assert mine[key] == others[key], key
    assert others["attacks"] is None
    assert mine["phases"]["num_steps"] == others["phases"]["num_steps"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["~callbacks.attacks"],
            r"attack.attacks is \[nearest_embedding, ridge\], but callbacks.attacks, which runs them, is left out",
        ),
        (["placement=one_party"], "attack.cuts names cut 1, but nothing crosses it"),
        (["attack.tokens=100000"], "too few"),
        (["placement=vanilla", "model.untie=true", "placement.server=a:1"], "the top is at a server, which keeps it to itself"),
        (
            ["placement.server=a:1", "attack.attacks=[bag_of_tokens]", "attack.directions=[averaging]"],
            "takes gradients of the trunk, and a server would keep them",
        ),
    ],
)
def test_attacks_that_cannot_be_run_are_refused_before_weights_are_read(
    overrides: list[str], message: str, tmp_path: Path, weights_stay_unread: None
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *SMALL, *overrides)


def test_vanilla_runs_are_attacked_and_say_that_labels_are_sent(tmp_path: Path) -> None:
    run(tmp_path, *SMALL, "placement=vanilla", "model.untie=true", "trainer.max_steps=1", "callbacks.attacks.before=false")
    record = record_of(tmp_path)
    assert record["attacks"]["headline"]["cut"] == 1 and record["attacks"]["before"] is None
    assert record["threat_model"]["labels_sent_at"] == "cut_1"
