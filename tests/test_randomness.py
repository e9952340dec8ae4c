"""Each name draws its own random numbers, whatever the others draw."""

from __future__ import annotations

import pytest
import torch

from splitlearn.randomness import NamedGenerators


def draw(generators: NamedGenerators, name: str) -> torch.Tensor:
    """Draw as dropout does, which takes no generator."""
    with generators.drawing(name):
        return torch.nn.functional.dropout(torch.ones(64), 0.5)


def test_a_name_draws_the_same_whatever_others_draw() -> None:
    alone, among_others = NamedGenerators(3), NamedGenerators(3)
    expected = [draw(alone, "trunk") for _ in range(3)]
    found = []
    for number in range(3):
        torch.rand(number + 1)
        draw(among_others, "bottom")
        found.append(draw(among_others, "trunk"))
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert len({tuple(row.tolist()) for row in expected}) == 3, "each call draws further numbers"


def test_names_and_seeds_differ() -> None:
    drawn = [draw(NamedGenerators(seed), name) for seed in (0, 1) for name in ("bottom", "trunk")]
    assert len({tuple(row.tolist()) for row in drawn}) == 4


def test_the_seed_of_a_name_is_the_same_in_every_process() -> None:
    # Python's own hash of a string is not.
    assert NamedGenerators(5).generator("trunk").initial_seed() == 7937353828031902312


def test_torchs_own_numbers_go_on_as_if_nothing_had_been_drawn() -> None:
    before = torch.get_rng_state()
    generators = NamedGenerators(0)
    draw(generators, "trunk")
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="stopped"), generators.drawing("trunk"):
        torch.rand(3)
        raise RuntimeError("stopped")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_is_gone_on_from() -> None:
    generators = NamedGenerators(7)
    draw(generators, "trunk")
    state = generators.state()
    expected = draw(generators, "trunk"), draw(generators, "top")
    # A name that had drawn nothing begins as the state's seed says.
    other = NamedGenerators(8)
    draw(other, "top")
    other.load_state(state)
    found = draw(other, "trunk"), draw(other, "top")
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_noise_is_drawn_from_the_generator_of_a_name() -> None:
    generators = NamedGenerators(0)
    noise = torch.randn(4, generator=generators.generator("cut_1/activation"))
    assert torch.equal(noise, torch.randn(4, generator=NamedGenerators(0).generator("cut_1/activation")))
    assert not torch.equal(noise, torch.randn(4, generator=generators.generator("cut_1/gradient")))


def test_generators_are_put_back_whatever_is_drawn_meanwhile() -> None:
    generators, alone = NamedGenerators(3), NamedGenerators(3)
    draw(generators, "trunk"), draw(alone, "trunk")
    held = generators.generator("trunk")
    with generators.kept():
        draw(generators, "trunk"), draw(generators, "bottom")
    assert generators.generator("trunk") is held
    assert str(generators.state()) == str(alone.state()), "names that were new are gone"
    assert torch.equal(draw(generators, "trunk"), draw(alone, "trunk"))
