"""The outcome of an attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitlearn.attacks.budget import BudgetUse


@dataclass(frozen=True)
class Baseline:
    """The score of guessing without looking at what crosses: the best of the guesses tried.

    Attributes:
        guess: which guess that is, for example ``"most frequent token"``.
        token_recovery: share of positions that it has right.
        rouge_l: its ROUGE-L; None without a tokenizer.
        tried: token recovery of each guess that was tried, by its name.
    """

    guess: str
    token_recovery: float
    rouge_l: float | None = None
    tried: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "guess": self.guess,
            "token_recovery": self.token_recovery,
            "rouge_l": self.rouge_l,
            "tried": dict(self.tried),
        }


@dataclass(frozen=True)
class Reconstruction:
    """A piece of text beside what an attack made of it.

    Attributes:
        original: the text.
        reconstructed: the text as the attack has it.
    """

    original: str
    reconstructed: str


@dataclass(frozen=True)
class AttackResult:
    """What an attack recovered, and at which cost.

    Attributes:
        attack: its name.
        cut: 1 or 2.
        direction: ``"forward"`` or ``"backward"``.
        token_recovery: share of the attacked positions whose token is right.
        rouge_l: mean ROUGE-L (F measure) of the pieces as text; None without a tokenizer.
        by_position: the same share for each position of a piece, T numbers; empty if the attack has no positions.
        budget: what it used.
        baseline: the score of guessing without looking.
        token_overlap: share of the test tokens that occur in the auxiliary pieces.
        num_pieces: how many test pieces were attacked.
        base_weights_public: whether the attack used public weights.
        reconstructions: some pieces beside what was made of them.
        details: further figures of this attack by name, for example ``pieces_exact``.
    """

    attack: str
    cut: int
    direction: str
    token_recovery: float
    rouge_l: float | None
    by_position: tuple[float | None, ...]
    budget: BudgetUse
    baseline: Baseline
    token_overlap: float
    num_pieces: int
    base_weights_public: bool
    reconstructions: tuple[Reconstruction, ...] = ()
    details: Mapping[str, float | int | str | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values; every attack has the same keys."""
        return {
            "attack": self.attack,
            "cut": self.cut,
            "direction": self.direction,
            "token_recovery": self.token_recovery,
            "rouge_l": self.rouge_l,
            "by_position": list(self.by_position),
            "budget": self.budget.to_dict(),
            "baseline": self.baseline.to_dict(),
            "token_overlap": self.token_overlap,
            "num_pieces": self.num_pieces,
            "base_weights_public": self.base_weights_public,
            "reconstructions": [vars(reconstruction).copy() for reconstruction in self.reconstructions],
            "details": dict(self.details),
        }
