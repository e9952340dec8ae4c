"""Noise that is drawn again alike, has the size that was asked for, and spares padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.boundary import CallKind, CodecContext, CodecSettings, Gaussian
from splitlearn.boundary.codecs.gaussian import clip_rows, median_rms
from splitlearn.randomness import NamedGenerators


def context_of(tensor: torch.Tensor, seed: int = 0, **more: Any) -> CodecContext:
    generators = NamedGenerators(seed)
    kind = more.pop("kind", CallKind.TRAIN)
    return CodecContext(
        kind, "cut_1", "activation", tensor.shape, generator=lambda device: generators.generator("cut_1", device), **more
    )


def hidden(rows: int = 4, tokens: int = 6, size: int = 32) -> torch.Tensor:
    drawn = torch.randn(rows, tokens, size, generator=torch.Generator().manual_seed(1))
    drawn[:, 0] *= 100
    return drawn


def test_noise_is_relative_to_the_median_token_and_drawn_from_the_boundarys_generator() -> None:
    tensor = hidden(64, 32, 64)
    codec = Gaussian(noise_rms=0.3)
    sent = codec.encode(tensor, context_of(tensor))["values"]
    expected = 0.3 * float(tensor.square().mean(-1).sqrt().median())
    assert float((sent - tensor).std()) == pytest.approx(expected, rel=0.01)
    assert 0.25 < expected < 0.35, "the enormous first tokens do not decide"
    assert torch.equal(sent, codec.encode(tensor, context_of(tensor))["values"])
    assert not torch.equal(sent, codec.encode(tensor, context_of(tensor, seed=1))["values"])
    assert codec.state_dict() == {}


def test_examples_are_clipped_to_a_norm_and_short_ones_stay() -> None:
    tensor = hidden()
    tensor[1] /= 1e4
    clipped = clip_rows(tensor, 5.0)
    norms = clipped.flatten(1).norm(dim=1)
    assert norms.tolist() == pytest.approx([5.0, float(tensor[1].norm()), 5.0, 5.0])
    assert torch.equal(clipped[1], tensor[1])
    assert torch.allclose(clipped[0] / clipped[0].norm(), tensor[0] / tensor[0].norm(), atol=1e-6)
    assert torch.equal(clip_rows(torch.zeros(2, 3), 1.0), torch.zeros(2, 3))


def test_noise_of_clipped_examples_has_the_multipliers_size() -> None:
    tensor = torch.zeros(64, 32, 64)
    sent = Gaussian(clip=5.0, noise_multiplier=2.0).encode(tensor, context_of(tensor))["values"]
    assert float(sent.std()) == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("settings", [{"noise_rms": 0.5}, {"clip": 5.0, "noise_multiplier": 1.0}], ids=str)
def test_padding_gets_no_noise_decides_nothing_and_shows_nothing(settings: dict[str, float]) -> None:
    tensor = hidden()
    mask = torch.ones(4, 6, dtype=torch.int64)
    mask[0, :3] = 0
    other = tensor.clone()
    other[0, :3] = 7e3
    sent, again = (
        Gaussian(**settings).encode(each, context_of(each, attention_mask=mask))["values"] for each in (tensor, other)
    )
    assert torch.equal(sent, again)
    assert not sent[0, :3].any()
    assert (sent[0, 3:] != tensor[0, 3:]).all()


def test_cached_tokens_have_no_part_in_the_mask_of_one_more_token() -> None:
    tensor = hidden(2, 1)
    sent = Gaussian(noise_rms=0.5).encode(tensor, context_of(tensor, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 0]])))
    assert sent["values"][0].any() and not sent["values"][1].any()


def test_half_precision_is_kept_and_its_norms_do_not_overflow() -> None:
    tensor = torch.full((2, 3, 8), 6e4, dtype=torch.float16)
    sent = Gaussian(clip=1.0, noise_multiplier=0.001).encode(tensor, context_of(tensor))["values"]
    assert sent.dtype == torch.float16
    assert sent.float().flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0], rel=0.05)


def test_releases_are_counted_for_each_example_and_only_grow() -> None:
    tensor = hidden(2)
    codec = Gaussian(clip=1.0, noise_multiplier=1.0)
    for rows in ([0, 3], [0, 1], [0, 2]):
        codec.encode(tensor, context_of(tensor, rows_B=torch.tensor(rows)))
    codec.encode(tensor, context_of(tensor, kind=CallKind.EVALUATE))
    for kind in (CallKind.GENERATE, CallKind.TRIAL):
        codec.encode(tensor, context_of(tensor, kind=kind))
    assert (codec.releases.most("train"), codec.releases.most("evaluate"), codec.releases.most("generate")) == (3, 1, 0)
    resumed = Gaussian(clip=1.0, noise_multiplier=1.0)
    resumed.encode(tensor, context_of(tensor, rows_B=torch.tensor([4, 5])))
    resumed.load_state_dict(codec.state_dict())
    assert resumed.releases.most("train") == 3
    resumed.encode(tensor, context_of(tensor))
    assert resumed.releases.most("train") == 4, "an example without an id may be any"


def test_recorded_outputs_pass_as_they_are() -> None:
    tensor = hidden()
    codec = Gaussian(noise_rms=1.0)
    assert codec.encode(tensor, context_of(tensor, place=1))["values"] is tensor


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "give noise_rms alone, or clip with noise_multiplier"),
        ({"noise_rms": 0.3, "clip": 1.0, "noise_multiplier": 1.0}, "give noise_rms alone"),
        ({"clip": 1.0}, "give noise_rms alone"),
        ({"noise_rms": 0}, "noise_rms is 0; give a positive number"),
        ({"noise_rms": True}, "noise_rms is True"),
        ({"noise_rms": float("nan")}, "noise_rms is nan"),
        ({"noise_rms": 0.1, "delta": 1.5}, "delta is 1.5; give a probability below 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_one_sentence(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        CodecSettings.from_plain({"codec": "gaussian", **settings}, "forward")


def test_without_the_accountant_no_epsilon_can_be_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn.boundary.codecs.gaussian.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'splitlearn\[privacy\]', or use noise_rms"):
        Gaussian(clip=1.0, noise_multiplier=1.0)
    Gaussian(noise_rms=1.0)


def test_the_median_looks_at_real_tokens() -> None:
    values = torch.tensor([[[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]]])
    assert float(median_rms(values, None)) == 2
    assert float(median_rms(values, torch.tensor([[True, False, False]]))) == 3
