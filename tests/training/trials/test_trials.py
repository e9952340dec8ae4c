"""Trials run once, part by part, and leave the model as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.model import ComposedCausalLM
from splitlearn.training import SplitCausalLM
from splitlearn.training.trials import Trials


@pytest.fixture
def composed(tiny_checkpoint: Callable[..., Path]) -> ComposedCausalLM:
    module = SplitCausalLM(str(tiny_checkpoint("llama")), 2, 4)
    module.load_parts()
    return module.composed.train()


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a trial went through the model")


def test_they_never_go_through_the_model(composed: ComposedCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("forward", "run"):
        monkeypatch.setattr(ComposedCausalLM, name, refuse)
    trials = Trials(composed, 0)
    assert trials.keeps_rows_apart and trials.has_linear_head and trials.flops(2, 5)


def test_each_runs_once_and_changes_no_mode_and_no_random_number(composed: ComposedCausalLM) -> None:
    calls = {part.spec.name: 0 for part in composed.parts}

    def note(part: Any, inputs: Any) -> None:
        assert not part.training
        calls[part.spec.name] += 1

    for part in composed.parts:
        part.register_forward_pre_hook(note)
    trials = Trials(composed, 0)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    for _ in range(2):
        assert trials.keeps_rows_apart and trials.has_linear_head
    assert calls == {"bottom": 3, "trunk": 2, "top": 4}, "the head is tried without the trunk"
    assert all(module.training for module in composed.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_operations_are_counted_once_and_scaled_by_tokens(composed: ComposedCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn.training.trials.trials.count_flops", lambda *args: [10, 20, 30])
    trials = Trials(composed, 1)
    assert trials.flops(2, 5) == 60
    monkeypatch.setattr("splitlearn.training.trials.trials.count_flops", refuse)
    assert trials.flops(4, 5, share_frozen=0.5) == 2 * (5 + 20 + 30)


def test_operations_that_are_not_known_stay_so(composed: ComposedCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn.training.trials.trials.count_flops", lambda *args: None)
    assert Trials(composed, 0).flops(2, 5) is None
