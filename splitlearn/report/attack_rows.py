"""The attacks of a run's record in words, for its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitlearn.report.columns import plain_text
from splitlearn.report.records import as_figure, as_mapping

HEADINGS = [
    "attack",
    "cut",
    "direction",
    "recovery",
    "ROUGE-L",
    "clean-trained",
    "baseline",
    "pieces",
    "own pieces",
    "steps",
    "seconds",
    "ended by",
]
# The cells from this one on are numbers, or follow some.
NUMBERS_FROM = 3
# A record may be anybody's.
_MOST_ATTACKS = 64
_MOST_TEXTS = 3
_MOST_CHARACTERS = 400


@dataclass
class AttackWords:
    """The attacks as the page shows them.

    Attributes:
        sentences: on the best attack, and on the one before training.
        rows: one for each attack, as in `HEADINGS`.
        texts: of the best attack some texts, each with what was made of it.
    """

    sentences: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)


def attacks_in_words(attacks: Mapping[str, Any]) -> AttackWords:
    """Return what a page says of a record's attacks; nothing if the record has none.

    Args:
        attacks: as in ``summary.json``.
    """
    words = AttackWords()
    headline, listed = as_mapping(attacks.get("headline")), attacks.get("attacks")
    words.sentences += _sentences(attacks)
    for attack in (listed if isinstance(listed, list) else [])[:_MOST_ATTACKS]:
        values = as_mapping(attack)
        words.rows.append(_row(values))
        if headline and not words.texts and all(values.get(key) == value for key, value in headline.items()):
            words.texts = _texts(values.get("reconstructions"))
    return words


def _sentences(attacks: Mapping[str, Any]) -> list[str]:
    sentences = []
    before = as_mapping(attacks.get("before"))
    for moment, found in (("before training", before), ("after training" if before else "", attacks)):
        best, reason = as_mapping(found.get("headline")), found.get("reason")
        recovery = as_figure(best.get("token_recovery"))
        if recovery is not None:
            place = (
                f"{plain_text(best.get('attack'))} at cut {plain_text(best.get('cut'))}, {plain_text(best.get('direction'))}"
            )
            when = f"{moment.capitalize()} the" if moment else "The"
            sentences.append(f"{when} best attack, {place}, recovers {recovery:.1%} of the tokens.")
        elif reason is not None:
            sentences.append(f"The attacks{f' {moment}' if moment else ''} were not run: {plain_text(reason)}.")
    return sentences


def _row(attack: Mapping[str, Any]) -> list[str]:
    used, baseline = as_mapping(attack.get("budget")), as_mapping(attack.get("baseline"))
    clean = as_mapping(attack.get("details")).get("clean_trained_recovery")
    shares = (attack.get("token_recovery"), attack.get("rouge_l"), clean, baseline.get("token_recovery"))
    counts = (attack.get("num_pieces"), used.get("pieces"), used.get("steps"))
    return [
        *(plain_text(attack.get(key, "")) for key in ("attack", "cut", "direction")),
        *(_number(share, ".3f") for share in shares),
        *(_number(count, ",.0f") for count in counts),
        _number(used.get("seconds"), ".1f"),
        "" if used.get("ended_by") is None else plain_text(used["ended_by"]),
    ]


def _number(value: Any, form: str) -> str:
    figure = as_figure(value)
    return "" if figure is None else format(figure, form)


def _texts(reconstructions: Any) -> list[list[str]]:
    rows = [as_mapping(pair) for pair in (reconstructions if isinstance(reconstructions, list) else [])[:_MOST_TEXTS]]
    return [[plain_text(pair.get(key, ""), _MOST_CHARACTERS) for key in ("original", "reconstructed")] for pair in rows]
