"""The bytes that parts keep for the backward pass, against autograd's graph itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from splitlearn.boundary import BoundaryObserver
from splitlearn.model import ComposedCausalLM
from splitlearn.training import SplitCausalLM
from splitlearn.training.saved_activations import SavedActivations
from tests.planning.test_activations import really_kept
from tests.tiny_models import VOCAB_SIZE, tiny_model, token_ids

Tiny = Callable[..., Path]


def composed_model(checkpoint: Path) -> ComposedCausalLM:
    module = SplitCausalLM(str(checkpoint), 2, 4)
    module.load_parts()
    return module.composed


def count(model: ComposedCausalLM, saved: SavedActivations) -> dict[str, int]:
    model.stage_observers[:] = [saved.enter]
    ids_BT = torch.zeros(2, 16, dtype=torch.long)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :3] = 0
    saved.arm()
    logits_BTV = model(ids_BT, attention_mask=mask_BT).logits
    loss = model.top.loss(logits_BTV, ids_BT, 1)
    kept = saved.stop()
    loss.backward()
    assert kept is not None
    return kept


def test_the_parts_keep_what_the_unsplit_model_keeps(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama", tie_word_embeddings=False))
    kept = count(model, SavedActivations(model.parts))
    whole = tiny_model("llama", tie_word_embeddings=False).train()
    # At a cut the smashed data are kept on both sides, and each part has a mask and rotary embeddings of its own.
    assert sum(kept.values()) == pytest.approx(really_kept(whole, VOCAB_SIZE), rel=0.05)
    assert all(kept.values())


def test_parts_that_are_not_asked_for_do_not_count(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama"))
    all_parts = count(model, SavedActivations(model.parts))
    some = count(model, SavedActivations([model.bottom, model.top]))
    assert some == {"bottom": all_parts["bottom"], "top": all_parts["top"]}


def test_a_frozen_part_below_all_that_is_trained_keeps_nothing(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama", tie_word_embeddings=False))
    trained = count(model, SavedActivations(model.parts))
    model.bottom.requires_grad_(False)
    kept = count(model, SavedActivations(model.parts))
    assert kept["bottom"] == 0 and kept["top"] == trained["top"]


def test_a_storage_counts_once_and_weights_do_not(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama"))
    saved = SavedActivations(model.parts)
    saved.arm()
    saved.enter("bottom")
    numbers = torch.ones(100, requires_grad=True) * 2
    weight = next(model.bottom.parameters())
    # Both views are of one storage, and the weight is there anyway.
    kept_graph = numbers[:50].pow(2).sum() + numbers[50:].pow(2).sum() + (weight * 2.0).pow(2).sum() + weight.pow(2).sum()
    assert saved.stop() == {"bottom": 400 + weight.nbytes, "trunk": 0, "top": 0}
    del kept_graph


def test_what_is_freed_before_the_backward_pass_does_not_count(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama"))
    saved = SavedActivations(model.parts)
    saved.arm()
    saved.enter("top")
    (torch.ones(100, requires_grad=True) * 2).pow(2).sum().backward()
    assert saved.stop() == {"bottom": 0, "trunk": 0, "top": 0}


def test_nothing_is_counted_unasked(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama"))
    saved = SavedActivations(model.parts)
    model.stage_observers.append(saved.enter)
    model(token_ids())
    assert saved.stop() is None


class Penalty(BoundaryObserver):
    def loss_term(self, cut: int, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return (hidden_BTD * 2).pow(2).mean()


def test_what_an_observer_keeps_at_a_cut_is_of_the_part_below(tiny_checkpoint: Tiny) -> None:
    model = composed_model(tiny_checkpoint("llama"))
    ids_BT = token_ids()

    def kept_by_parts() -> dict[str, int]:
        saved = SavedActivations(model.parts)
        model.stage_observers[:] = [saved.enter]
        saved.arm()
        finished = model.run(ids_BT)
        kept = saved.stop()
        assert kept is not None
        del finished
        return kept

    without = kept_by_parts()
    model.boundaries[0].observers.append(Penalty())
    with_penalty = kept_by_parts()
    assert with_penalty["bottom"] - without["bottom"] == ids_BT.numel() * 64 * 4
    assert with_penalty["trunk"] == without["trunk"] and with_penalty["top"] == without["top"]
