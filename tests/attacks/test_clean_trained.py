"""The attacker who does not know the defence trains on what the public layers make of its texts, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attacks import AttackPlan, AttackTexts, Budget, PublicModel, run_attacks
from splitlearn.attacks.clean_trained import with_clean_texts
from splitlearn.boundary import BoundaryCodecs
from splitlearn.model import ComposedCausalLM
from tests.attacks.views import NUM_TOKENS, compose, decode, draw_pieces, make_clear, make_view

PLAN = AttackPlan(("ridge", "mlp"), tokens=NUM_TOKENS, prompt_tokens=4, budgets={"mlp": Budget(steps=30)})


def test_clean_texts_are_what_crosses_without_a_codec(tiny_checkpoint: Callable[..., Path]) -> None:
    for cut in (1, 2):
        view = make_view(compose(tiny_checkpoint("llama")), cut)
        clean = with_clean_texts(view)
        for own, recorded in ((clean.auxiliary, view.auxiliary), (clean.validation, view.validation)):
            assert torch.equal(own.crossed_NTD, recorded.crossed_NTD) and torch.equal(own.ids_NT, recorded.ids_NT)
        assert clean.test is view.test
    assert len(with_clean_texts(view, seconds=0.0).auxiliary) == 8, "the time ends it after the first pieces"
    with pytest.raises(ValueError, match="needs the public weights of all parts below the cut"):
        with_clean_texts(replace(view, public=None))


def test_its_figure_stands_beside_that_of_the_attacker_who_knows(tiny_checkpoint: Callable[..., Path]) -> None:
    texts = AttackTexts(*(draw_pieces(count, seed) for seed, count in enumerate((64, 8, 8))))
    plain = make_clear(compose(tiny_checkpoint("llama")))
    noise = BoundaryCodecs.from_plain({"forward": {"codec": "gaussian", "noise_rms": 2.0}})
    defended = ComposedCausalLM(*plain.parts, codecs=noise)
    found = {}
    for name, model in {"plain": plain, "defended": defended}.items():
        plan = replace(PLAN, clean_trained=("ridge",))
        ridge, mlp = run_attacks(model, texts, plan, public=PublicModel.of(plain), decode=decode).results
        assert "clean_trained_recovery" not in mlp.details
        found[name] = ridge.token_recovery, ridge.details["clean_trained_recovery"]
        assert ridge.details["clean_trained_rouge_l"] is not None
    assert found["plain"][0] == found["plain"][1], "without a defence both have trained on the same"
    assert found["defended"][0] != found["defended"][1]
    without = run_attacks(defended, texts, PLAN, public=PublicModel.of(plain), decode=decode).results
    assert without[0].token_recovery == found["defended"][0] and without[1].by_position == mlp.by_position
