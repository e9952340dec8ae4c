"""Attacks on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from splitlearn.cli.attack_tables import AttackProgress, print_attacks, result_line, shown


def attack(name: str, recovery: float, **budget: Any) -> dict[str, Any]:
    used = {"pieces": 300, "steps": 12, "seconds": 4.25, "ended_by": None, **budget}
    return {
        "attack": name,
        "cut": 1,
        "direction": "forward",
        "token_recovery": recovery,
        "rouge_l": 0.5,
        "baseline": {"guess": "most frequent token", "token_recovery": 0.04},
        "num_pieces": 16,
        "budget": used,
        "details": {"clean_trained_recovery": 0.25} if name == "mlp" else {},
        "reconstructions": [{"original": "a\x1b[31m\nb", "reconstructed": "a\x07 b"}],
    }


FOUND: dict[str, Any] = {
    "model": "m",
    "split_point_1": 2,
    "split_point_2": 6,
    "base_weights": "public",
    "token_overlap": 0.97,
    "left_out": [{"attack": "responses", "cut": 1, "direction": "forward", "reason": "no \x1b reason"}],
    "attacks": [attack("ridge", 0.5), attack("mlp", 0.75, ended_by="seconds")],
    "headline": {"attack": "mlp", "cut": 1, "direction": "forward", "token_recovery": 0.75, "rouge_l": 0.5},
}


def test_the_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    print_attacks(FOUND)
    text = capsys.readouterr().out
    assert text.startswith("m cut at 2 / 6: the attack mlp recovers 75.0% of the tokens at cut 1, forward, ROUGE-L 0.500\n")
    row = next(line for line in text.splitlines() if line.startswith("│ mlp"))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        *("mlp", "1", "forward", "0.750", "0.500", "0.040", "16", "300", "12", "4.2", "seconds")
    ]
    assert "97.0% of the attacked tokens occur in its own texts" in text
    assert "mlp at cut 1: 0.250 if it was trained on undefended data" in text and "ridge at cut 1:" not in text
    assert "left out: responses at cut 1, forward: no ? reason" in text
    assert "original       a\\x1b[31m\\nb\n" in text and "reconstructed  a\\x07 b" in text
    assert "\x1b" not in text and "\x07" not in text


def test_a_text_is_one_line_of_limited_length() -> None:
    assert shown("\u202ea\tb") == "\\u202ea\\tb"
    assert shown("x" * 500) == "x" * 400 + "..."


def test_progress_in_a_file_is_lines() -> None:
    stream = io.StringIO()
    with AttackProgress(stream) as progress:
        progress.watch.begins("mlp at cut 1, forward", 15.0)
        progress.watch.begins("ridge at cut 1, forward", None)
    assert stream.getvalue() == "mlp at cut 1, forward, 15 s at most\nridge at cut 1, forward\n"


def test_an_attack_that_its_budget_ended_says_so() -> None:
    assert result_line(attack("mlp", 0.5, ended_by="steps")) == (
        "mlp at cut 1, forward: 0.500 of the tokens in 4 s, ended by its budget of steps"
    )
