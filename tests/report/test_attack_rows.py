from __future__ import annotations

from pathlib import Path
from typing import Any

from splitlearn.report.attack_rows import HEADINGS, attacks_in_words
from splitlearn.report.writing import write_report
from tests.report.written_runs import summary, write_run

BEST: dict[str, Any] = {"attack": "mlp", "cut": 1, "direction": "forward", "token_recovery": 0.75, "rouge_l": 0.5}
MLP = BEST | {
    "num_pieces": 16,
    "baseline": {"token_recovery": 0.04},
    "details": {"clean_trained_recovery": 0.25},
    "budget": {"pieces": 300, "steps": 1234, "seconds": 4.25, "ended_by": "seconds"},
    "reconstructions": [{"original": "<b>bold\x1b</b>", "reconstructed": "it"}],
}
RIDGE = MLP | {"attack": "ridge", "token_recovery": 0.5, "reconstructions": [{"original": "no", "reconstructed": "no"}]}
ATTACKS: dict[str, Any] = {
    "headline": BEST,
    "attacks": [RIDGE, MLP],
    "before": {"headline": BEST | {"token_recovery": 0.7}},
}


def test_rows_and_texts_of_the_best_attack() -> None:
    words = attacks_in_words(ATTACKS)
    assert words.rows[1] == ["mlp", "1", "forward", "0.750", "0.500", "0.250", "0.040", "16", "300", "1,234", "4.2", "seconds"]
    assert len(words.rows[0]) == len(HEADINGS)
    assert words.texts == [["<b>bold?</b>", "it"]]
    assert words.sentences == [
        "Before training the best attack, mlp at cut 1, forward, recovers 70.0% of the tokens.",
        "After training the best attack, mlp at cut 1, forward, recovers 75.0% of the tokens.",
    ]


def test_attacks_that_were_not_run_say_why() -> None:
    words = attacks_in_words({"headline": None, "attacks": [], "reason": "no memory"})
    assert words.sentences == ["The attacks were not run: no memory."] and words.rows == []


def test_the_page_of_a_run_shows_them(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "run", summary(2, 6, attacks=ATTACKS))])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "recovers 75.0% of the tokens" in page and "<dt>best attack</dt><dd>mlp cut 1 forward</dd>" in page
    assert "&lt;b&gt;bold?&lt;/b&gt;" in page and "<b>bold" not in page
    write_report([write_run(tmp_path / "other", summary(2, 6))])
    assert 'id="attacks"' not in (tmp_path / "other" / "report.html").read_text()


def test_damaged_attacks_say_less() -> None:
    words = attacks_in_words({"headline": 3, "attacks": [7, {"budget": [], "reconstructions": "x"}], "before": "never"})
    assert words.sentences == [] and words.texts == [] and [len(row) for row in words.rows] == [len(HEADINGS)] * 2
