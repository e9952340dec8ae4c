"""The threat model says who could recover what, for each placement that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from splitlearn.cut import PART_NAMES, PartTraining, Placement, describe_threats, find_exposures

CONF = Path(__file__).parents[2] / "conf" / "placement"
FULL = dict.fromkeys(PART_NAMES, PartTraining.FULL)
TEXT_BY_SERVER = ("server", 1, "forward", "text")
LABELS_BY_SERVER = ("server", 2, "backward", "labels")
RESPONSES_BY_SERVER = ("server", 2, "forward", "responses")


def placement(name: str) -> Placement:
    settings: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return Placement.resolve(settings["parties"], settings["data"], settings["labels"], num_gpus=0)


def exposures(name: str, trained: dict[str, PartTraining] = FULL) -> set[tuple[Any, ...]]:
    found = find_exposures(placement(name), trained)
    assert len(found) == len(set(found))
    return {(exposure.party, exposure.cut, exposure.direction, exposure.of) for exposure in found}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("u_shaped", {TEXT_BY_SERVER, LABELS_BY_SERVER, RESPONSES_BY_SERVER}),
        ("vanilla", {TEXT_BY_SERVER}),
        (
            "linear",
            {
                ("server_1", 1, "forward", "text"),
                ("server_2", 2, "forward", "text"),
                ("server_1", 2, "backward", "labels"),
                ("server_1", 2, "forward", "responses"),
            },
        ),
    ],
)
def test_exposures_of_the_shipped_placements(name: str, expected: set[tuple[Any, ...]]) -> None:
    assert exposures(name) == expected


def test_one_party_exposes_nothing() -> None:
    placed = Placement.one_party(num_gpus=0)
    assert find_exposures(placed, FULL) == []
    described = describe_threats(placed, FULL)
    assert described["parties"]["owner"]["receives"] == []
    assert described["labels_sent_at"] is None


def test_frozen_parts_below_a_cut_are_sent_no_gradients() -> None:
    frozen = {"bottom": PartTraining.FROZEN, "trunk": PartTraining.FROZEN, "top": PartTraining.FULL}
    assert exposures("u_shaped", frozen) == {TEXT_BY_SERVER, RESPONSES_BY_SERVER}
    trunk = frozen | {"trunk": PartTraining.ADAPTERS}
    parties = describe_threats(placement("u_shaped"), trunk)["parties"]
    assert parties["client"]["receives"] == ["smashed data at cut 2"], "no gradients at cut 1"
    assert parties["server"]["receives"][-1] == "gradients at cut 2"


def test_the_parties_of_a_u_shape() -> None:
    described = describe_threats(placement("u_shaped"), FULL)
    assert described["attacker"] == "honest-but-curious"
    assert (described["text"], described["labels"], described["labels_sent_at"]) == ("client", "client", None)
    assert described["parties"] == {
        "client": {
            "holds": ["bottom", "top"],
            "trains": ["bottom", "top"],
            "knows": ["text", "labels"],
            "receives": ["gradients at cut 1", "smashed data at cut 2"],
        },
        "server": {
            "holds": ["trunk"],
            "trains": ["trunk"],
            "knows": [],
            "receives": ["smashed data at cut 1", "mask at cut 1", "positions at cut 1", "gradients at cut 2"],
        },
    }


@pytest.mark.parametrize(
    ("trained", "receives", "exposes"),
    [
        (FULL, ["weights of the bottom", "weights of the top"], True),
        (dict.fromkeys(PART_NAMES, PartTraining.ADAPTERS), ["adapters of the bottom", "adapters of the top"], False),
        ({**FULL, "bottom": PartTraining.FROZEN, "top": PartTraining.NORMS}, ["weights of the top"], False),
    ],
    ids=["full", "adapters", "norms"],
)
def test_whoever_averages_is_a_party(trained: dict[str, PartTraining], receives: list[str], exposes: bool) -> None:
    described = describe_threats(placement("u_shaped"), trained, is_averaged=True)
    assert described["parties"]["whoever averages"] == {"holds": [], "trains": [], "knows": [], "receives": receives}
    exposure = {"party": "whoever averages", "cut": None, "direction": "weights", "of": "text"}
    assert (exposure in described["exposures"]) == exposes


def test_vanilla_hands_labels_over() -> None:
    described = describe_threats(placement("vanilla"), FULL)
    assert (described["labels"], described["labels_sent_at"]) == ("server", "cut_1")
    assert described["parties"]["client"]["knows"] == ["text", "labels"]
    assert described["parties"]["server"]["knows"] == ["labels"]
    assert "labels at cut 1" in described["parties"]["server"]["receives"]
