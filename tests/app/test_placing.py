from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import open_dict

import splitlearn
from splitlearn.app import compose, evaluate, train
from splitlearn.app.placing import resolve_placement
from splitlearn.cut import DeviceMapError, PlacementError
from splitlearn.runs import print_summary, read_summary

SHORT = ["trainer.max_steps=2", "data.max_train_blocks=16", "data.max_val_blocks=8", "trainer.enable_progress_bar=false"]
SHORT += ["verbose=false", "logger=none"]


@pytest.mark.parametrize(
    ("choice", "parties", "crosses"),
    [
        ("one_party", {"owner": "bottom trunk top"}, {"cut_1": "", "cut_2": ""}),
        (
            "u_shaped",
            {"client": "bottom top", "server": "trunk"},
            {"cut_1": "smashed data mask positions", "cut_2": "smashed data"},
        ),
        ("vanilla", {"client": "bottom", "server": "trunk top"}, {"cut_1": "smashed data mask positions labels", "cut_2": ""}),
        (
            "linear",
            {"client": "bottom", "server_1": "trunk", "server_2": "top"},
            {"cut_1": "smashed data mask positions", "cut_2": "smashed data mask positions labels"},
        ),
    ],
)
def test_the_shipped_placements(choice: str, parties: dict[str, str], crosses: dict[str, str]) -> None:
    placement = resolve_placement(compose(f"placement={choice}", "device_map=cpu"))
    assert {party.name: " ".join(party.parts) for party in placement.parties} == parties
    assert {f"cut_{cut}": " ".join(placement.what_crosses(cut)) for cut in (1, 2)} == crosses
    assert placement.devices == dict.fromkeys(("bottom", "trunk", "top"), "cpu")


def test_a_run_of_an_older_release_has_one_party() -> None:
    cfg = compose("device_map=cpu")
    with open_dict(cfg):
        del cfg["placement"]
    assert resolve_placement(cfg).parts_here("owner") == ("bottom", "trunk", "top")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["placement=one_party", "placement.parties.owner.parts=[bottom,top]"], "placement.parties leave 'trunk' to nobody"),
        (
            ["placement=u_shaped", "placement.parties.server.parts=[trunk,top]"],
            "placement.parties.server.parts names 'top', which",
        ),
        (["placement=u_shaped", "placement.parties.server.parts=[middle]"], "placement.parties.server.parts names 'middle'"),
        (["placement=vanilla", "placement.labels=client"], "placement.labels is 'client', but 'server' holds the top"),
        (
            ["placement=u_shaped", "placement.parties.client.address=example.org:9000"],
            "placement.parties.client.address is 'example.org:9000', but 'client' has the data and runs in this process",
        ),
        (["placement.server=a.org"], "placement.server is 'a.org'; give HOST:PORT"),
        (
            ["placement=one_party", "placement.parties.owner.devices=cuda:99"],
            "placement.parties.owner.devices is 'cuda:99', but this machine",
        ),
    ],
)
def test_a_placement_that_cannot_be_had_is_refused_before_the_model_is_opened(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    cfg = compose("model=pretrained", "model.name_or_path=nowhere", *overrides)
    with pytest.raises(PlacementError, match=message):
        train(cfg, folder=tmp_path / "run")


def test_the_device_map_keeps_its_name_in_messages() -> None:
    with pytest.raises(DeviceMapError, match=r"^device_map is 'cuda:99'"):
        resolve_placement(compose("device_map=cuda:99"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, splitlearn.app.TrainResult]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        # The placement has been resolved by then; nobody looks for devices again.
        patch.delattr("splitlearn.loading.devices.resolve_device_map")
        choices = ("one_party", "u_shaped")
        return {choice: train(compose(*SHORT, f"placement={choice}"), folder=folder / choice) for choice in choices}


def test_parties_of_one_process_train_as_one_party_does(runs: dict[str, splitlearn.app.TrainResult]) -> None:
    one, two = (dict(run.module.named_parameters()) for run in runs.values())
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_summary_says_who_held_what(
    runs: dict[str, splitlearn.app.TrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = read_summary(runs["u_shaped"].folder)
    assert summary is not None and summary.placement == {
        "parties": {
            "client": {"parts": ["bottom", "top"], "devices": {"bottom": "cpu", "top": "cpu"}, "address": None},
            "server": {"parts": ["trunk"], "devices": {"trunk": "cpu"}, "address": None},
        },
        "data": "client",
        "labels": "client",
        "crosses": {"cut_1": ["smashed data", "mask", "positions"], "cut_2": ["smashed data"]},
    }
    alone = read_summary(runs["one_party"].folder)
    assert alone is not None and alone.placement is not None
    assert alone.placement["crosses"] == {"cut_1": [], "cut_2": []}
    print_summary(summary)
    shown = capsys.readouterr().out
    assert " party " in shown and "server" in shown
    assert "cut 1 is crossed by smashed data, mask, positions" in shown
    print_summary(alone)
    shown = capsys.readouterr().out
    assert " party " not in shown and "crossed" not in shown


def test_a_run_is_measured_wherever_evaluate_says(runs: dict[str, splitlearn.app.TrainResult], tmp_path: Path) -> None:
    run = runs["u_shaped"]
    config = run.folder / "config.yaml"
    written = config.read_text()
    # As on a machine with GPUs.
    config.write_text(written.replace("devices: null", "devices: cuda:99"))
    try:
        with pytest.raises(PlacementError, match=r"placement.parties.client.devices is 'cuda:99'"):
            evaluate(compose(f"run={run.folder}", config_name="evaluate"))
        measured = evaluate(compose(f"run={run.folder}", "device_map=cpu", config_name="evaluate"))
    finally:
        config.write_text(written)
    assert measured["loss"] == pytest.approx(run.metrics["val_loss_after"], abs=1e-6)
