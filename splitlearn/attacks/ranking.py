"""Attacks that guess each position's token by itself or from the whole piece, best guess first.

Shapes: N pieces of text, T tokens, D hidden size, E width of the embedding, M vectors, R ranked tokens, K candidates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from splitlearn.attacks.attack import Attack
from splitlearn.attacks.budget import Budget, BudgetMeter, BudgetUse
from splitlearn.attacks.result import AttackResult
from splitlearn.attacks.scoring import score
from splitlearn.attacks.view import FORWARD, AttackerView
from splitlearn.randomness import forked_random_state

# Scores that are in memory at a time: 32 MiB of float32.
_SCORES_AT_A_TIME = 2**23


@dataclass(frozen=True, eq=False)
class Ranker:
    """Orders the vocabulary by how well each token fits what crossed.

    A token's score is the inner product of its row with the projected vector, plus its bias.

    Attributes:
        project: from what crossed (N, T, D) to vectors (N, T, E), on the device of the rows.
        rows_RE: a row for each token that is ranked, shape (R, E).
        ids_R: the token id of each row; None if the rows are those of all ids in order.
        bias_R: added to the scores, shape (R,); None for nothing.
    """

    project: Callable[[torch.Tensor], torch.Tensor]
    rows_RE: torch.Tensor
    ids_R: torch.Tensor | None = None
    bias_R: torch.Tensor | None = None

    def best(self, crossed_NTD: torch.Tensor) -> torch.Tensor:
        """Return the id of the best token for each position, shape (N, T).

        Args:
            crossed_NTD: what crossed, shape (N, T, D).
        """
        return self.order(crossed_NTD, 1)[..., 0]

    def order(self, crossed_NTD: torch.Tensor, count: int) -> torch.Tensor:
        """Return the ids of the best tokens for each position, the best first, shape (N, T, count).

        Args:
            crossed_NTD: what crossed, shape (N, T, D).
            count: how many; there are no more than ranked tokens.
        """
        count = min(count, len(self.rows_RE))
        vectors_NTE = self.project(crossed_NTD)
        num_vectors = max(1, _SCORES_AT_A_TIME // len(self.rows_RE))
        ranks = [
            self._scores(vectors).topk(count, dim=1).indices.cpu() for vectors in vectors_NTE.flatten(0, 1).split(num_vectors)
        ]
        order_MK = torch.cat(ranks)
        ids_MK = order_MK if self.ids_R is None else self.ids_R[order_MK]
        return ids_MK.view(*crossed_NTD.shape[:2], count)

    def _scores(self, vectors_ME: torch.Tensor) -> torch.Tensor:
        scores_MR = vectors_ME @ self.rows_RE.T
        return scores_MR if self.bias_R is None else scores_MR + self.bias_R


class RankingAttack(Attack):
    """Fits a `Ranker` to the auxiliary pieces and guesses its best token at each position of the test pieces."""

    def __init__(self) -> None:
        self._fitted: tuple[AttackerView, Ranker, BudgetUse] | None = None

    def run(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> AttackResult:
        """Attack the test pieces of a view; see `Attack.run`."""
        ranker, meter = self._fit(view, budget, rng)
        guess_NT = ranker.best(view.test.crossed_NTD.float())
        return score(self.name, view, guess_NT, meter.use(), base_weights_public=view.public is not None)

    def fitted(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> tuple[Ranker, BudgetUse]:
        """Return the ranker for a view, fitted now unless it has been, with what fitting it used.

        Args:
            view: what the attacker sees.
            budget: the most that fitting may use.
            rng: the generator of all its random numbers.

        Raises:
            ValueError: the view lacks something that the attack needs.
        """
        if self._fitted is None or self._fitted[0] is not view:
            self._fit(view, budget, rng)
        assert self._fitted is not None  # noqa: S101
        return self._fitted[1:]

    def _fit(self, view: AttackerView, budget: Budget, rng: torch.Generator) -> tuple[Ranker, BudgetMeter]:
        if view.direction != FORWARD:
            raise ValueError(f"{self.name} reads smashed data, not the gradients of direction {view.direction!r}")
        meter = budget.start()
        with seeded(rng):
            ranker = self.fit(view, meter)
        self._fitted = (view, ranker, meter.use())
        return ranker, meter

    @abstractmethod
    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        """Return a ranker for a view. torch's default generators are seeded and given back afterwards.

        Args:
            view: what the attacker sees.
            meter: counts what is used; the attack ends when it says so.
        """


@contextmanager
def seeded(rng: torch.Generator) -> Iterator[None]:
    """Seed torch's default generators from a generator, and give them their state back afterwards.

    Gradients are recorded as outside any other mode, since attacks run within Lightning's validation too.

    Args:
        rng: draws the seed.
    """
    seed = int(torch.randint(2**31, (), generator=rng))
    with forked_random_state(), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        yield
