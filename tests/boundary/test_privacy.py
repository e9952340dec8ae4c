"""Epsilon is opacus' own, of all that was sent up, and is not claimed while anything is sent in the clear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opacus.accountants import RDPAccountant

from splitlearn.boundary import U_SHAPED, Boundary, CallKind, CodecSettings, Parcel, TrafficMeter
from splitlearn.boundary.privacy import Mechanism, describe_privacy, epsilon_of

CLIPPED = {"codec": "gaussian", "clip": 1.0, "noise_multiplier": 8.0, "delta": 1e-6}


def boundaries(*settings: Any) -> list[Boundary]:
    meter = TrafficMeter()
    codecs = [CodecSettings.from_plain(setting, "codec").make() for setting in settings]
    return [Boundary(route, meter, codec, back) for route, codec, back in zip(U_SHAPED, codecs[::2], codecs[1::2], strict=True)]


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
    epsilon = epsilon_of([Mechanism("", 1.0, 20.0, 1e-5, 1)])
    assert 0.35 < epsilon < (2 * torch.log(torch.tensor(1.25e5))).sqrt() / 10
    assert epsilon_of([Mechanism("", 1.0, 20.0, 1e-5, 0)]) == 0
    # Much and little noise: no order at the end of opacus' own range is the best one.
    assert epsilon_of([Mechanism("", 1.0, 1000.0, 1e-5, 1)]) < 0.02
    assert 1000 < epsilon_of([Mechanism("", 1.0, 0.04, 1e-5, 1)]) < 2000


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
