"""Each name draws its own random numbers, whatever the others draw."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from splitlearn.randomness import NamedGenerators, forked_random_state, new_key


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


def test_secret_names_follow_from_the_key_alone() -> None:
    keys = new_key(), new_key()
    assert keys[0] != keys[1] and len(keys[0]) == 64
    made = [NamedGenerators(seed, None, ["noise"], key) for seed in (0, 1) for key in keys]
    drawn = [torch.randn(32, generator=generators.generator("noise")) for generators in made]
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3]) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], torch.randn(32, generator=NamedGenerators(0).generator("noise")))
    # Other names follow from the seed, and without a key all do.
    assert torch.equal(draw(made[0], "trunk"), draw(NamedGenerators(0), "trunk"))
    assert torch.equal(draw(NamedGenerators(0, None, ["noise"]), "noise"), draw(NamedGenerators(0), "noise"))
    assert made[0].is_secret("noise") and not made[0].is_secret("trunk")
    assert not NamedGenerators(0, None, ["noise"]).is_secret("noise")
    with pytest.raises(ValueError, match="no seed of them is given away"):
        made[0].seed_of("noise")


def test_secret_numbers_are_not_those_of_one_of_few_seeds() -> None:
    # On the CPU torch takes 32 bits of a seed, which can all be tried.
    assert torch.equal(*(torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32)))
    generator = NamedGenerators(0, None, ["noise"], new_key()).generator("noise")
    alike = torch.Generator().manual_seed(generator.initial_seed())
    assert not torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=alike))
    numbers = torch.randn(200_000, generator=generator)
    assert abs(numbers.mean()) < 0.02 and abs(numbers.std() - 1) < 0.02


def test_the_key_is_kept_with_the_state() -> None:
    generators = NamedGenerators(0, None, ["one", "two"], new_key())
    torch.rand(3, generator=generators.generator("one"))
    state = generators.state()
    expected = [torch.rand(3, generator=generators.generator(name)) for name in ("one", "two")]
    other = NamedGenerators(0, None, ["one", "two"], new_key())
    other.load_state(state)
    assert all(
        torch.equal(torch.rand(3, generator=other.generator(name)), numbers)
        for name, numbers in zip(("one", "two"), expected, strict=True)
    )
    assert "key" not in NamedGenerators(0).state()


@pytest.mark.parametrize(("is_in_use", "forked"), [(True, [0, 1]), (False, [])])
def test_all_gpus_are_set_back_if_any_is_in_use(monkeypatch: pytest.MonkeyPatch, is_in_use: bool, forked: list[int]) -> None:
    seen: list[int] = []

    def fork(devices: list[int]) -> nullcontext[None]:
        seen.extend(devices)
        return nullcontext()

    monkeypatch.setattr("torch.cuda.is_initialized", lambda: is_in_use)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.random.fork_rng", fork)
    with forked_random_state():
        pass
    assert seen == forked


def test_torchs_own_numbers_are_set_back() -> None:
    torch.manual_seed(3)
    with forked_random_state():
        torch.manual_seed(4)
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))
