"""Epsilon is opacus' own, of all that was sent up, and is not claimed while anything is sent in the clear."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from opacus.accountants import RDPAccountant

from splitlearn.boundary import U_SHAPED, Boundary, CallKind, CodecSettings, Parcel, TrafficMeter, find_routes
from splitlearn.boundary.privacy import Mechanism, PrivacySettings, describe_privacy, epsilon_of, noise_with_epsilon
from splitlearn.boundary.settings import BoundaryCodecs
from splitlearn.cut import Placement
from splitlearn.randomness import NamedGenerators

CLIPPED = {"codec": "gaussian", "clip": 1.0, "noise_multiplier": 8.0, "delta": 1e-6}


NOISE = ("cut_1/activation", "cut_2/gradient")


def boundaries(*settings: Any, key: str | None = "a secret") -> list[Boundary]:
    meter, generators = TrafficMeter(), NamedGenerators(0, None, NOISE, key)
    codecs = [CodecSettings.from_plain(setting, "codec").make() for setting in settings]
    pairs = zip(U_SHAPED, codecs[::2], codecs[1::2], strict=True)
    return [Boundary(route, meter, codec, back, generators) for route, codec, back in pairs]


def step(both: list[Boundary], rows: list[int], kind: CallKind = CallKind.TRAIN) -> None:
    tensor = torch.randn(len(rows), 3, 4, requires_grad=True)
    for boundary in both:
        sent = boundary.send(Parcel(tensor), kind, rows_B=torch.tensor(rows))
        tensor = boundary.receive(sent, torch.device("cpu"))[0].hidden_BTD * 2
    if kind is CallKind.TRAIN:
        tensor.sum().backward()


def test_epsilon_composes_epochs_cuts_and_directions_as_opacus_does() -> None:
    both = boundaries(CLIPPED, "exact", "exact", {**CLIPPED, "noise_multiplier": 20.0})
    # Two epochs of four examples; one is a batch's alone.
    for rows in ([0, 1, 2], [3], [3, 1, 0], [2]):
        step(both, rows)
    described = describe_privacy(both)
    assert described is not None and described["in_the_clear"] == []
    assert {each["name"]: each["releases"] for each in described["mechanisms"]} == {
        "cut_1/activation": 2,
        "cut_2/gradient": 2,
    }
    opacus = RDPAccountant()
    for noise_multiplier in (8.0, 8.0, 20.0, 20.0):
        # One example replaced by another moves the clipped tensor by twice the clip.
        opacus.step(noise_multiplier=noise_multiplier / 2, sample_rate=1.0)
    assert described["epsilon"] == pytest.approx(opacus.get_epsilon(1e-6), rel=0.01)
    assert described["epsilon"] <= opacus.get_epsilon(1e-6)
    assert described["delta"] == 1e-6


def test_one_release_is_near_the_exact_value() -> None:
    # The classical bound sqrt(2 ln(1.25 / delta)) / sigma is for epsilon below 1.
    epsilon, by = epsilon_of([Mechanism("", 1.0, 20.0, 1e-5, 1)])
    assert by == "opacus RDPAccountant"
    assert 0.35 < epsilon < (2 * torch.log(torch.tensor(1.25e5))).sqrt() / 10
    assert epsilon_of([Mechanism("", 1.0, 20.0, 1e-5, 0)])[0] == 0
    # Much and little noise: no order at the end of opacus' own range is the best one.
    assert epsilon_of([Mechanism("", 1.0, 1000.0, 1e-5, 1)])[0] < 0.02
    assert 1000 < epsilon_of([Mechanism("", 1.0, 0.04, 1e-5, 1)])[0] < 2000


def test_privacy_loss_random_variables_are_tighter_and_never_below_the_exact_value() -> None:
    mechanism = Mechanism("", 1.0, 8.0, 1e-5, 4)
    (loose, _), (tight, by) = (epsilon_of([mechanism], accountant) for accountant in ("rdp", "prv"))
    # Four releases are one of half the noise: sensitivity over deviation is 2 / 8 * 2.
    exact = _exact_epsilon(0.5, 1e-5)
    assert by == "opacus PRVAccountant" and exact <= tight < exact + 0.03 < loose
    # Its numbers overflow where epsilon is large; the other's bound stands then, and it is said.
    little = Mechanism("", 1.0, 0.01, 1e-5, 4)
    large, by = epsilon_of([little], "prv")
    assert (
        large == epsilon_of([little])[0] and by == "opacus RDPAccountant, since epsilon is too large for opacus PRVAccountant"
    )
    assert epsilon_of([], "prv") == (0.0, "opacus PRVAccountant")


def _exact_epsilon(mu: float, delta: float) -> float:
    """Return epsilon of the Gaussian mechanism, whose sensitivity is ``mu`` deviations, by Balle and Wang (1805.06530)."""
    normal, low, high = NormalDist(), 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        reached = normal.cdf(mu / 2 - middle / mu) - math.exp(middle) * normal.cdf(-mu / 2 - middle / mu)
        low, high = (middle, high) if reached > delta else (low, middle)
    return high


def test_noise_that_follows_from_the_seed_has_no_epsilon() -> None:
    settings = (CLIPPED, "exact", "exact", CLIPPED)
    secret, public = boundaries(*settings), boundaries(*settings, key=None)
    step(secret, [0, 1])
    step(public, [0, 1])
    held, broken = describe_privacy(secret), describe_privacy(public, accountant="prv")
    assert held is not None and broken is not None
    assert held["noise_is_secret"] and held["epsilon"] == held["epsilon_if_secret"] > 0
    assert not broken["noise_is_secret"] and broken["epsilon"] is None and 0 < broken["epsilon_if_secret"] < held["epsilon"]
    assert broken["accountant"] == "opacus PRVAccountant"


def test_noise_with_an_epsilon_is_that_of_the_datas_owner() -> None:
    everywhere = BoundaryCodecs.from_plain({"forward": CLIPPED, "backward": [CLIPPED, "int8"]})
    assert noise_with_epsilon(everywhere, U_SHAPED) == {*NOISE}
    assert not noise_with_epsilon(BoundaryCodecs.from_plain({"forward": {"codec": "gaussian", "noise_rms": 1.0}}), U_SHAPED)
    one_party = find_routes(Placement.one_party(num_gpus=0))
    assert not noise_with_epsilon(everywhere, one_party)


def test_settings_are_checked() -> None:
    assert PrivacySettings.from_plain(None) == PrivacySettings(False, "rdp")
    for values, words in (
        ({"accountant": "gdp"}, "accountant is 'gdp'; use rdp or prv"),
        ({"reproducible_noise": 1}, "reproducible_noise is 1; give true or false"),
        ({"noise": 1}, "noise is no setting"),
    ):
        with pytest.raises(ValueError, match=words):
            PrivacySettings.from_plain(values)


def test_nothing_is_claimed_while_the_gradient_is_sent_in_the_clear() -> None:
    both = boundaries(CLIPPED, "exact", "exact", "int8")
    step(both, [0, 1])
    described = describe_privacy(both)
    assert described is not None and described["epsilon"] is None and described["in_the_clear"] == ["cut_2/gradient"]
    held_out = boundaries(CLIPPED, "exact", "exact", "int8")
    step(held_out, [0, 1], CallKind.EVALUATE)
    described = describe_privacy(held_out, CallKind.EVALUATE)
    assert described is not None and described["epsilon"] > 0, "held-out text has no gradients"


def test_only_what_follows_the_noise_leaves_the_claim() -> None:
    first = boundaries([CLIPPED, "int8"], "exact", "exact", CLIPPED)
    step(first, [0])
    assert describe_privacy(first)["epsilon"] > 0  # type: ignore[index]
    # The places of the largest numbers are sent without noise.
    second = boundaries(["topk", CLIPPED], "exact", "exact", CLIPPED)
    step(second, [0])
    described = describe_privacy(second)
    assert described is not None and described["in_the_clear"] == ["cut_1/activation"] and described["epsilon"] is None


def test_without_clipping_there_is_nothing_to_describe() -> None:
    both = boundaries({"codec": "gaussian", "noise_rms": 1.0}, "exact", "exact", "exact")
    step(both, [0])
    assert describe_privacy(both) is None
