"""What plain settings mean for a plan, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from splitlearn.attacks import AttackPlan, Budget
from splitlearn.attacks.plan import DIRECTIONS
from splitlearn.naming import naming_group
from splitlearn.settings.fields import settings_of
from splitlearn.settings.groups import AttackBudgets


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"attacks": ["mlpp"]}, r"attack.attacks is \[mlpp\], and 'mlpp' is none of nearest_embedding, ridge, mlp"),
        ({"attacks": []}, r"attack.attacks is \[\]; name at least one of nearest_embedding"),
        ({"cuts": [3]}, r"attack.cuts is \[3\], and 3 is none of 1, 2"),
        ({"cuts": [True]}, r"attack.cuts is \[True\], and True is none of 1, 2"),
        ({"directions": "sideways"}, r"attack.directions is \[sideways\], and 'sideways' is none of forward, backward"),
        ({"directions": ["backward"], "attacks": ["mlp"]}, r"attacks mlp look at forward; name one of these in attack.direct"),
        ({"base_weights": "some"}, r"attack.base_weights is 'some'; use public or private"),
        ({"clean_trained": "nearest_embedding"}, r"attack.clean_trained has 'nearest_embedding', which is none of the trained"),
        (
            {"clean_trained": ["mlp"], "base_weights": "private"},
            r"attack.clean_trained is \[mlp\], but undefended data are comp",
        ),
        ({"prompt_tokens": 65}, r"attack.prompt_tokens is 65, more than the 64 tokens of a piece \(attack.tokens\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with naming_group("attack"), pytest.raises(ValueError, match=sentence):
        AttackPlan.from_plain(settings)


def test_one_word_stands_for_a_list() -> None:
    plan = AttackPlan.from_plain({"attacks": "mlp", "cuts": 2, "budgets": {"mlp": {"seconds": 3.0}, "ridge": None}})
    assert plan.attacks == ("mlp",) and plan.cuts == (2,)
    assert plan.budget("mlp") == Budget(seconds=3.0) and plan.budget("ridge") == Budget()


def test_attacks_are_told_apart_by_what_they_look_at() -> None:
    plan = AttackPlan(attacks=tuple(DIRECTIONS), directions=("forward",))
    assert "mlp" in plan.of("forward") and plan.of("backward") == ()


def test_every_attack_has_a_budget_in_the_settings() -> None:
    assert set(DIRECTIONS) <= {name for name, _, _ in settings_of(AttackBudgets)}
