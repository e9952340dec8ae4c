"""In training each part draws its dropout from its own generator, if the model was composed with some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from splitlearn.boundary import CallKind
from splitlearn.loading import ModelFactory
from splitlearn.model import ComposedCausalLM
from splitlearn.randomness import NamedGenerators
from splitlearn.training.compilation import checkpoint_layers

IDS_BT = torch.arange(3, 15).reshape(2, 6)


def compose(checkpoint: Path, generators: NamedGenerators | None) -> ComposedCausalLM:
    parts = ModelFactory.create_split_models(None, checkpoint, 2, 4, low_memory=True, trained=["bottom", "trunk", "top"])
    return ComposedCausalLM(*parts, generators=generators).train()


def states(generators: NamedGenerators) -> dict[str, list[int]]:
    return {name: of_name["cpu"].tolist() for name, of_name in generators.state()["states"].items()}


def gradients(model: ComposedCausalLM) -> list[torch.Tensor]:
    model(IDS_BT, labels=IDS_BT).loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_what_a_part_draws_does_not_depend_on_the_others(tiny_checkpoint: Callable[..., Path]) -> None:
    generators = [NamedGenerators(0), NamedGenerators(0)]
    models = [compose(tiny_checkpoint("gpt2", attn_pdrop=0.1), one) for one in generators]
    # Its bottom draws less.
    models[1].bottom.eval()
    before = torch.get_rng_state()
    for model in models:
        model(IDS_BT)
    one, other = map(states, generators)
    assert one.keys() == {"bottom", "trunk", "top"}
    assert {name: one[name] for name in ("trunk", "top")} == other
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is left alone"


def test_what_is_computed_again_in_the_backward_pass_drops_the_same(tiny_checkpoint: Callable[..., Path]) -> None:
    kept, computed_again = (compose(tiny_checkpoint("gpt2", attn_pdrop=0.1), NamedGenerators(0)) for _ in range(2))
    checkpoint_layers(computed_again.parts)
    expected, found = gradients(kept), gradients(computed_again)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert kept.generators is not None and computed_again.generators is not None
    assert states(kept.generators) == states(computed_again.generators)


def test_trials_and_evaluation_draw_from_none_of_them(tiny_checkpoint: Callable[..., Path]) -> None:
    generators = NamedGenerators(0)
    model = compose(tiny_checkpoint("gpt2", attn_pdrop=0.1), generators)
    model.run(IDS_BT, kind=CallKind.TRIAL)
    with model.evaluating():
        model(IDS_BT)
    assert not states(generators)


def test_without_generators_a_model_draws_as_the_unsplit_one(tiny_checkpoint: Callable[..., Path]) -> None:
    model = compose(tiny_checkpoint("gpt2", attn_pdrop=0.1), None)
    before = torch.get_rng_state()
    model(IDS_BT)
    assert not torch.equal(torch.get_rng_state(), before)
