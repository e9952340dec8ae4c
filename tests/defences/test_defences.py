"""Defences reach the bottom, are kept in checkpoints, and without them training is as it was to the bit."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.boundary import BoundaryObserver, CallKind, Parcel
from splitlearn.cut import Placement
from splitlearn.defences import AdversarialTraining, divergence_of
from splitlearn.model import ComposedCausalLM, Finished
from splitlearn.training import SplitCausalLM
from splitlearn.training import parts_module as module_of_training
from tests.tiny_models import token_ids
from tests.training.test_resume import Losses, check, run

NOPEEK = {"nopeek": {"weight": 0.5, "positions": 24}}
ADVERSARIAL = {"adversarial": {"weight": 0.3, "positions": 24, "width": 16}}
MID = {"mid": {"weight": 0.05, "noise": 0.5}}
DCHI = {"dchi": {"epsilon": 20.0, "nearest": True}}
ALL = {**NOPEEK, **ADVERSARIAL, **MID, **DCHI}


def module_of(folder: Path, defence: Any, **settings: Any) -> SplitCausalLM:
    torch.manual_seed(3)
    module = SplitCausalLM(str(folder), 2, 4, defence=defence, **settings)
    module.load_parts()
    return module


def boundary_loss(module: SplitCausalLM, ids: torch.Tensor, **more: Any) -> torch.Tensor:
    finished = module.composed.run(ids, kind=CallKind.TRAIN, **more)
    assert finished.loss_term is not None
    return finished.loss_term


@pytest.mark.parametrize("defence", [NOPEEK, ADVERSARIAL, MID], ids=str)
def test_gradients_reach_the_bottom_and_nothing_above(defence: dict[str, Any], tiny_checkpoint: Callable[..., Path]) -> None:
    module = module_of(tiny_checkpoint("llama"), defence)
    boundary_loss(module, token_ids()).backward()
    bottom, trunk, top = module.parts
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in bottom.layers.parameters())
    for part in (trunk, top):
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in part.parameters())


@pytest.fixture(scope="module")
def undefended(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SplitCausalLM, Losses, Path]:
    folder = tmp_path_factory.mktemp("plain")
    return *run(tiny_checkpoint("llama"), folder, max_steps=4), folder


@pytest.mark.parametrize("defence", [None, {}, {"nopeek": None}, {"nopeek": {"weight": 0}, "mid": {"weight": 0.0}}], ids=str)
def test_without_a_defence_training_is_as_it_was_to_the_bit(
    defence: Any, undefended: tuple[SplitCausalLM, Losses, Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    expected = undefended
    found = run(tiny_checkpoint("llama"), tmp_path, max_steps=4, defence=defence)
    assert found[1].losses == expected[1].losses
    pairs = zip(found[0].parameters(), expected[0].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    states = [each.generators.state()["states"] for each in (found[0], expected[0])]
    assert states[0].keys() == states[1].keys()
    files = [folder / "last.ckpt" for folder in (tmp_path, expected[2])]
    kept = [torch.load(file, weights_only=True)["callbacks"].keys() for file in files]
    assert kept[0] == kept[1]


def test_training_lowers_the_distance_correlation(tiny_checkpoint: Callable[..., Path]) -> None:
    module = module_of(tiny_checkpoint("llama"), {"nopeek": {"weight": 1.0, "positions": 33}})
    optimizer = torch.optim.Adam(module.parts[0].layers.parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        loss = boundary_loss(module.eval(), token_ids())
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0 < values[-1] < 0.9 * values[0] <= 0.9


def test_padding_is_not_looked_at(tiny_checkpoint: Callable[..., Path]) -> None:
    ids, mask = token_ids(), torch.ones(3, 11, dtype=torch.long)
    mask[0, :4] = 0
    other = ids.clone()
    other[0, :4] = 7
    found = []
    for each in (ids, other):
        module = module_of(tiny_checkpoint("llama"), {"nopeek": {"positions": 1000}, "mid": {}})
        module.eval()
        found.append(float(boundary_loss(module, each, attention_mask=mask).detach()))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_adversary_learns_and_the_bottom_is_turned_away_from_it(tiny_checkpoint: Callable[..., Path]) -> None:
    module = module_of(tiny_checkpoint("llama"), {"adversarial": {"weight": 0.5, "positions": 33, "learning_rate": 0.01}})
    module.eval()
    (defence,) = module.defences._own
    assert isinstance(defence, AdversarialTraining)
    losses = []
    for _ in range(8):
        loss = boundary_loss(module, token_ids())
        loss.backward()
        module.defences.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0], "the inverter reads the tokens"
    assert all(parameter.grad is None for parameter in defence.inverter.parameters())
    # A step of the bottom down its own gradient raises the inverter's loss.
    module.zero_grad()
    before = boundary_loss(module, token_ids())
    before.backward()
    with torch.no_grad():
        for parameter in module.parts[0].layers.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad / parameter.grad.norm())
    assert float(boundary_loss(module, token_ids()).detach()) > float(before.detach())


def test_tokens_that_are_guessed_worse_than_by_chance_are_left_alone(tiny_checkpoint: Callable[..., Path]) -> None:
    module = module_of(tiny_checkpoint("llama"), ADVERSARIAL)
    (defence,) = module.defences._own
    assert isinstance(defence, AdversarialTraining)
    with torch.no_grad():
        # The inverter is sure of another token.
        defence.inverter.down.weight.zero_()
        defence.inverter.down.bias.copy_(100 * defence._inputs.table()[50])
    boundary_loss(module, torch.full((2, 9), 7)).backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.parts[0].layers.parameters())


def logits(model: ComposedCausalLM, ids: torch.Tensor, kind: CallKind) -> torch.Tensor:
    finished = model.run(ids, kind=kind)
    assert isinstance(finished, Finished)
    logits_BTV: torch.Tensor = finished.output.logits.detach()
    return logits_BTV


def test_a_step_under_way_is_part_of_the_adversarys_state(tiny_checkpoint: Callable[..., Path]) -> None:
    first, second = (module_of(tiny_checkpoint("llama"), ADVERSARIAL) for _ in range(2))
    for _ in range(2):
        boundary_loss(first, token_ids()).backward()
        first.defences.step()
    boundary_loss(first, token_ids()).backward()
    second.defences.load_state_dict(copy.deepcopy(first.defences.state_dict()))
    inverters = []
    for module in (first, second):
        module.defences.step()
        (defence,) = module.defences._own
        assert isinstance(defence, AdversarialTraining)
        inverters.append(defence.inverter)
    pairs = zip(*(inverter.parameters() for inverter in inverters), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    other = module_of(tiny_checkpoint("llama"), {"adversarial": {"width": 8}})
    with pytest.raises(ValueError, match="inverter of the adversarial training has another shape"):
        other.defences.load_state_dict(first.defences.state_dict())


class Seen(BoundaryObserver):
    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.received: list[torch.Tensor] = []

    def on_send(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self.sent.append(parcel.hidden_BTD)

    def on_receive(self, cut: int, kind: CallKind, parcel: Parcel) -> None:
        self.received.append(parcel.hidden_BTD)


def test_the_bottleneck_sends_noise_of_the_scale_of_the_first_batch(tiny_checkpoint: Callable[..., Path]) -> None:
    module = module_of(tiny_checkpoint("llama"), {"mid": {"noise": 0.5}})
    module.eval()
    seen = Seen()
    module.composed.boundaries[0].observers.append(seen)
    ids = token_ids(32, 40)
    for kind in (CallKind.EVALUATE, CallKind.TRAIN, CallKind.EVALUATE, CallKind.GENERATE):
        module.composed.run(ids, kind=kind)
    differences = [received - sent for sent, received in zip(seen.sent, seen.received, strict=True)]
    assert not differences[0].any(), "the scale is not known before the first training batch"
    hidden_ND = seen.sent[0].flatten(0, 1)
    spread_D = (hidden_ND - hidden_ND.median(0).values).abs().median(0).values / 0.6745
    for difference in differences[1:]:
        assert torch.allclose(difference.flatten(0, 1).std(0) / spread_D, torch.tensor(0.5), rtol=0.15)


def test_the_divergence_is_torchs() -> None:
    means = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(means, 0.3), torch.distributions.Normal(0.0, 1.0))
    assert float(divergence_of(means, 0.3)) == pytest.approx(float(expected.mean()))


def test_noise_on_embeddings_reaches_every_call_that_crosses(tiny_checkpoint: Callable[..., Path]) -> None:
    ids = token_ids()
    plain, noisy = (module_of(tiny_checkpoint("llama"), defence).eval() for defence in (None, DCHI))
    for kind in (CallKind.TRAIN, CallKind.EVALUATE, CallKind.GENERATE):
        one, other = (logits(module.composed, ids, kind) for module in (plain, noisy))
        assert not torch.allclose(one, other), kind
    one, other = (logits(module.composed, ids, CallKind.TRIAL) for module in (plain, noisy))
    assert torch.equal(one, other), "a trial sends nothing"
    assert not noisy.parts[0].model.get_input_embeddings()._forward_hooks
    rehearsed = logits(noisy.composed.rehearsal(1), ids, CallKind.TRIAL)
    assert not torch.allclose(rehearsed, one), "an attack sees the noise"


def test_noise_on_embeddings_is_a_secret_unless_asked_otherwise(tiny_checkpoint: Callable[..., Path]) -> None:
    ids = token_ids()
    secret = [module_of(tiny_checkpoint("llama"), DCHI) for _ in range(2)]
    public = [module_of(tiny_checkpoint("llama"), DCHI, privacy={"reproducible_noise": True}) for _ in range(2)]
    drawn = [logits(module.composed, ids, CallKind.EVALUATE) for module in (*secret, *public)]
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert secret[0].defences.measured() == {"dchi": {"noise_is_secret": True}}
    assert public[0].defences.measured() == {"dchi": {"noise_is_secret": False}}
    assert module_of(tiny_checkpoint("llama"), MID).defences.measured() == {}


def test_tokens_that_noise_on_embeddings_replaces_are_counted(tiny_checkpoint: Callable[..., Path]) -> None:
    ids = token_ids()
    shares = []
    for epsilon in (1e6, 20.0, 1e-3):
        module = module_of(tiny_checkpoint("llama"), {"dchi": {"epsilon": epsilon, "nearest": True}})
        for kind in (CallKind.EVALUATE, CallKind.TRIAL):
            logits(module.composed, ids, kind)
            assert module.defences.figures == {} and module.defences.measured() == {"dchi": {"noise_is_secret": True}}
        logits(module.composed, ids, CallKind.TRAIN)
        shares.append(module.defences.measured()["dchi"]["replaced_share"])
        assert float(module.defences.figures["train_replaced_tokens"]) == shares[-1]
    assert shares[0] == 0 < shares[1] < shares[2] <= 1
    far = module_of(tiny_checkpoint("llama"), {"dchi": {"epsilon": 20.0, "nearest": False}})
    logits(far.composed, ids, CallKind.TRAIN)
    assert "replaced_share" not in far.defences.measured()["dchi"]


def test_all_defences_go_on_to_the_bit(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_checkpoint("llama")
    # Two runs that are compared need one secret; the one that goes on has its own at first.
    keys = iter(["the secret", "the secret", "another secret"])
    monkeypatch.setattr(module_of_training, "new_key", lambda: next(keys))
    # Of two batches a step: the signal comes in the middle of one.
    settings: dict[str, Any] = {"defence": ALL, "accumulate": 2}
    whole = run(model, tmp_path / "whole", **settings)
    with pytest.raises(SystemExit):
        run(model, tmp_path / "stopped", signal_at=8, number=signal.SIGTERM, **settings)
    path = tmp_path / "stopped" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    assert set(stored["callbacks"]["DefenceSteps"]) == {"adversarial", "mid"}
    done = stored["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    stopped = Losses()
    stopped.losses = dict(list(whole[1].losses.items())[:done])
    module, resumed = run(model, tmp_path / "stopped", ckpt_path=path, **settings)
    check(whole, [stopped, resumed], module)
    ends = [each.defences._own[-1] for each in (whole[0], module)]
    assert all(isinstance(end, AdversarialTraining) for end in ends)
    pairs = zip(ends[0].inverter.parameters(), ends[1].inverter.parameters(), strict=True)  # type: ignore[attr-defined]
    assert all(torch.equal(one, other) for one, other in pairs)


def test_defences_run_where_the_bottom_is(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = tiny_checkpoint("llama")
    settings: dict[str, Any] = {"max_steps": 4, "defence": ALL, "privacy": {"reproducible_noise": True}}
    here, elsewhere = (
        run(model, tmp_path / str(trunk_elsewhere), trunk_elsewhere=trunk_elsewhere, **settings)
        for trunk_elsewhere in (False, True)
    )
    assert here[1].losses == elsewhere[1].losses
    pairs = zip(here[0].parts[0].parameters(), elsewhere[0].parts[0].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"defence": {"nopek": {}}}, "nopek is no defence; there are nopeek, adversarial, mid, dchi"),
        ({"defence": {"nopeek": {"wight": 1}}}, r"nopeek.wight is not known; .*nopeek has weight, positions"),
        ({"defence": {"nopeek": {"weight": -1}}}, "nopeek.weight is -1; give a number of at least 0"),
        ({"defence": {"nopeek": {"positions": 0}}}, "nopeek.positions is 0; give a positive whole number"),
        ({"defence": {"mid": {"noise": math.inf}}}, "mid.noise is inf; give a positive number"),
        ({"defence": {"dchi": {"nearest": 1}}}, "dchi.nearest is 1; give true or false"),
        ({"defence": {"dchi": 5}}, "dchi is 5; give its settings by name"),
        ({"defence": NOPEEK, "optimizer": {"parts": {"bottom": {"train": False}}}}, "bottom is frozen"),
        ({"defence": MID, "placement": Placement.one_party(num_gpus=0)}, "nothing does in this placement"),
        (
            {
                "defence": DCHI,
                "optimizer": {"parts": {"bottom": {"train": False}}},
                "activation_cache": {"keep": "memory"},
            },
            "draws new noise each time",
        ),
    ],
    ids=str,
)
def test_bad_settings_are_one_sentence(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SplitCausalLM("nowhere", 2, 4, **settings)
