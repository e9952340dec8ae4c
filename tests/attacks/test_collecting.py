"""What is recorded is exactly what the receiver gets, and recording it leaves no trace in the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import BACKWARD, Budget, collect
from splitlearn.boundary import BoundaryObserver, CallKind, CodecContext, Gaussian, Parcel, codec_class, find_routes
from splitlearn.cut import Placement
from splitlearn.model import ComposedCausalLM
from splitlearn.randomness import NamedGenerators
from tests.attacks.views import compose, draw_pieces

IDS_NT = draw_pieces(5, seed=0)


def states_of(model: ComposedCausalLM, ids_NT: torch.Tensor = IDS_NT) -> list[torch.Tensor]:
    with torch.no_grad():
        below = model.bottom(ids_NT)
        return [below, model.trunk(below)]


@pytest.mark.parametrize("cut", [1, 2])
def test_smashed_data_are_those_that_cross(cut: int, tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    pieces = collect(model, IDS_NT, cut, batch_size=5)
    assert torch.equal(pieces.crossed_NTD, states_of(model)[cut - 1])
    assert torch.equal(pieces.ids_NT, IDS_NT) and pieces.labels_NT is None and pieces.smashed_NTD is None


def test_the_codec_has_been_over_them(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    exact = collect(model, IDS_NT, 1).crossed_NTD
    codec = model.boundaries[0].codec = codec_class("int8")()
    coded = collect(model, IDS_NT, 1).crossed_NTD
    context = CodecContext(CallKind.TRIAL, "cut_1", "activation", exact.shape)
    assert not torch.equal(coded, exact)
    assert torch.equal(coded, codec.decode(codec.encode(exact, context), exact.dtype, context))


def test_noise_is_of_the_seed_and_none_of_the_runs(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    exact = collect(model, IDS_NT, 1).crossed_NTD
    model.generators = NamedGenerators(5)
    model.boundaries[0].codec = Gaussian(noise_rms=0.3)
    noisy, again, other = (collect(model, IDS_NT, 1, seed=seed).crossed_NTD for seed in (1, 1, 2))
    assert torch.equal(noisy, again) and not torch.equal(noisy, other) and not torch.equal(noisy, exact)
    assert not model.generators.state()["states"]


@pytest.mark.parametrize("cut", [1, 2])
def test_gradients_are_those_of_the_batchs_loss(cut: int, tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    pieces = collect(model, IDS_NT, cut, BACKWARD, batch_size=5)
    hidden = states_of(model)[cut - 1].requires_grad_()
    logits = model.top(hidden if cut == 2 else model.trunk(hidden), labels=IDS_NT)
    (expected,) = torch.autograd.grad(logits.loss, hidden)
    assert torch.equal(pieces.crossed_NTD, expected)
    assert pieces.labels_NT is not None and torch.equal(pieces.labels_NT, IDS_NT)
    assert pieces.smashed_NTD is not None and torch.equal(pieces.smashed_NTD, hidden)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_that_do_not_cross_are_not_made_up(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    model.bottom.requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient crosses cut 1: nothing below it is trained"):
        collect(model, IDS_NT, 1, BACKWARD)
    assert len(collect(model, IDS_NT, 2, BACKWARD)) == len(IDS_NT)


class _Counter(BoundaryObserver):
    def __init__(self) -> None:
        self.shown = 0

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self.shown += 1


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_recording_leaves_no_trace(direction: str, tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("gpt2", attn_pdrop=0.1)).train()
    model.generators = NamedGenerators(3)
    observer = _Counter()
    model.boundaries[0].observers.append(observer)
    random_state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    first = collect(model, IDS_NT, 1, direction, seed=1)
    assert torch.equal(first.crossed_NTD, collect(model, IDS_NT, 1, direction, seed=1).crossed_NTD)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert not model.generators.state()["states"]
    assert all(not any(counts.values()) for kind in CallKind for counts in model.meter.totals(kind).values())
    assert observer.shown == 0 and model.boundaries[0].observers == [observer]


def test_what_is_recorded_can_be_trained_on_in_inference_mode(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    with torch.inference_mode():
        pieces = collect(model, IDS_NT, 1)
    assert not pieces.crossed_NTD.is_inference()


def test_the_budget_ends_the_recording(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    assert len(collect(model, IDS_NT, 1, budget=Budget(pieces=3), batch_size=2)) == 3
    assert len(collect(model, IDS_NT, 1, budget=Budget(seconds=0), batch_size=2)) == 2, "the first batch is always run"


def test_padding_is_masked_and_has_no_labels(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    mask_NT = torch.ones_like(IDS_NT, dtype=torch.bool)
    mask_NT[1, 7:] = False
    pieces = collect(model, IDS_NT, 1, BACKWARD, mask_NT=mask_NT, batch_size=2)
    assert pieces.mask_NT is not None and torch.equal(pieces.mask_NT, mask_NT)
    assert pieces.labels_NT is not None and (pieces.labels_NT[1, 7:] == -100).all()
    assert not pieces.crossed_NTD[1, 7:].any()


def test_what_does_not_fit_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    with pytest.raises(ValueError, match=r"the limit is 0\.01 MiB; 3 pieces fit"):
        collect(model, IDS_NT, 1, max_mib=0.01)
    with torch.no_grad():
        next(model.bottom.parameters()).mul_(1e7)
    with pytest.raises(ValueError, match="float16 cannot hold the values that cross"):
        collect(model, IDS_NT, 1, dtype=torch.float16)


def test_nothing_crosses_inside_one_party(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("llama"))
    alone = ComposedCausalLM(*model.parts, routes=find_routes(Placement.one_party(num_gpus=0)))
    with pytest.raises(ValueError, match="nothing crosses cut 2"):
        collect(alone, IDS_NT, 2)
