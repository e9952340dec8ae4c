"""A ridge map from what crossed to tokens.

Shapes: N pieces of text, T tokens, D features, E width of the embedding.
"""

from __future__ import annotations

from torch.nn.functional import normalize

from splitlearn.attacks.budget import BudgetMeter
from splitlearn.attacks.features import Standardizer
from splitlearn.attacks.ranking import Ranker, RankingAttack
from splitlearn.attacks.regression import Moments, with_constant
from splitlearn.attacks.scores import token_recovery
from splitlearn.attacks.view import AttackerView

# Strengths of the penalty that are tried, as shares of the features' mean square.
_STRENGTHS = (1e-5, 1e-3, 1e-1)
_NUM_VALIDATED = 4


class RidgeMap(RankingAttack):
    """Maps smashed data linearly to the token embeddings, and guesses the embedding of the nearest angle.

    Without a public embedding it guesses the auxiliary token whose mean is nearest in the metric of the same regression (linear
    discriminant analysis), and knows no other tokens.
    """

    name = "ridge"

    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        """Return the ranker with the best of a few penalties on the validation pieces; see `RankingAttack.fit`."""
        own = view.auxiliary.first(meter.take_pieces(len(view.auxiliary)))
        moments = Moments.measure(own, Standardizer.fit(own.crossed_NTD))
        validated = view.validation.first(_NUM_VALIDATED)
        rankers: list[tuple[float, Ranker]] = []
        for strength in _STRENGTHS:
            # The first is always fitted, so that there is an answer.
            if rankers and not meter.take_step():
                break
            ranker = self._with_strength(view, moments, strength)
            recovery = token_recovery(ranker.best(validated.crossed_NTD), validated.ids_NT, validated.mask_NT)
            rankers.append((recovery, ranker))
        return max(rankers, key=lambda pair: pair[0])[1]

    def _with_strength(self, view: AttackerView, moments: Moments, strength: float) -> Ranker:
        if view.public is None:
            rows_CD, bias_C = moments.discriminant(strength)
            return Ranker(lambda crossed: with_constant(moments.standardize(crossed)), rows_CD, moments.ids_C, bias_C)
        rows_VE = view.public_rows(self.name)
        map_DE = moments.map_to(rows_VE, strength)
        return Ranker(lambda crossed: with_constant(moments.standardize(crossed)) @ map_DE, normalize(rows_VE, dim=-1))
