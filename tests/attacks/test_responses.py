from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from splitlearn.attacks import FORWARD, Budget
from splitlearn.attacks.collecting_responses import collect_responses
from splitlearn.attacks.responses import ReadResponses
from splitlearn.boundary import CallKind
from splitlearn.model import ComposedCausalLM
from tests.attacks.planted import composed_model, view_of
from tests.tiny_models import token_ids

Tiny = Callable[..., Path]
PROMPTS = token_ids(3, 5)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Tiny) -> Path:
    return tiny_checkpoint("llama", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ComposedCausalLM:
    return composed_model(checkpoint, 2, 6)


def test_what_is_recorded_is_what_the_unsplit_model_generates(model: ComposedCausalLM, checkpoint: Path) -> None:
    pieces = collect_responses(model, PROMPTS, 2, 7, batch_size=2)
    whole: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    expected = whole.generate(PROMPTS, attention_mask=torch.ones_like(PROMPTS), max_new_tokens=8, do_sample=False)
    assert torch.equal(pieces.ids_NT, expected[:, :12])
    hidden = whole(pieces.ids_NT, output_hidden_states=True, use_cache=False).hidden_states
    below_norm = composed_smashed(model, pieces.ids_NT)
    assert len(hidden) == 7
    torch.testing.assert_close(pieces.crossed_NTD, below_norm, atol=1e-4, rtol=1e-4)
    assert pieces.labels_NT is not None
    assert torch.equal(pieces.labels_NT, torch.cat([torch.full_like(PROMPTS, -100), pieces.ids_NT[:, 5:]], dim=1))


def composed_smashed(model: ComposedCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), model.evaluating():
        smashed: torch.Tensor = model.trunk(model.bottom(ids))
    return smashed


@pytest.mark.parametrize("points", [(2, 6), (1, 3)])
def test_greedy_responses_are_read_at_any_cut(checkpoint: Path, points: tuple[int, int]) -> None:
    model = composed_model(checkpoint, *points)
    view = view_of(model, collect_responses(model, PROMPTS, 2, 7), direction=FORWARD)
    result = ReadResponses().run(view, Budget(), torch.Generator())
    assert result.token_recovery == 1.0
    assert result.by_position == (None,) * 5 + (1.0,) * 7, "a share for each step, none for the prompt"
    assert result.details["token_recovery_top_5"] == 1.0


def test_a_private_top_makes_it_guess(model: ComposedCausalLM, tiny_checkpoint: Tiny) -> None:
    pieces = collect_responses(model, PROMPTS, 2, 7)
    other = composed_model(tiny_checkpoint("llama", tie_word_embeddings=False, rms_norm_eps=1.0), 2, 6)
    with torch.no_grad():
        other.top.model.get_output_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
    view = view_of(model, pieces, direction=FORWARD, public=other)
    assert ReadResponses().run(view, Budget(), torch.Generator()).token_recovery < 0.3


def test_a_response_that_ends_early_is_padded_and_not_scored(model: ComposedCausalLM) -> None:
    free = collect_responses(model, PROMPTS, 2, 7)
    config = model.bottom.blueprint.generation_config
    assert config is not None and free.labels_NT is not None
    before, config.eos_token_id = config.eos_token_id, int(free.ids_NT[0, 7])
    try:
        ended = collect_responses(model, PROMPTS, 2, 7)
    finally:
        config.eos_token_id = before
    assert ended.labels_NT is not None and ended.ids_NT.shape == (3, 12)
    assert torch.equal(ended.labels_NT[0, 5:8], free.labels_NT[0, 5:8])
    assert (ended.labels_NT[0, 8:] == -100).all()


def test_the_model_stays_as_it_is(model: ComposedCausalLM) -> None:
    model.train()
    before = {kind: model.meter.totals(kind) for kind in CallKind}
    state = torch.get_rng_state()
    collect_responses(model, PROMPTS, 2, 3)
    assert {kind: model.meter.totals(kind) for kind in CallKind} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert model.boundaries[1].observers == []


def test_smashed_data_without_a_marked_response_are_refused(model: ComposedCausalLM) -> None:
    pieces = replace(collect_responses(model, PROMPTS, 2, 3), labels_NT=None)
    with pytest.raises(ValueError, match="with labels that mark the response"):
        ReadResponses().run(view_of(model, pieces, direction=FORWARD), Budget(), torch.Generator())
