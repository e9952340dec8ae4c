"""The embedding that is nearest to what crossed.

Shapes: N pieces of text, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from torch.nn.functional import normalize

from splitlearn.attacks.budget import BudgetMeter
from splitlearn.attacks.ranking import Ranker, RankingAttack
from splitlearn.attacks.scores import token_recovery
from splitlearn.attacks.view import AttackerView

# Validation pieces by which one of the two measures of distance is chosen.
_NUM_VALIDATED = 4


class NearestEmbedding(RankingAttack):
    """Guesses the token whose embedding is nearest, by angle or by distance, whichever is better on the attacker's own texts.

    It trains nothing. It finds every token where smashed data are the embeddings themselves, and hardly any above a few layers.
    """

    name = "nearest_embedding"

    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        """Return the better of two rankers; see `RankingAttack.fit`.

        Raises:
            ValueError: no embedding is public, or its width is another than that of what crosses.
        """
        rows_VD = view.public_rows(self.name)
        width = view.test.crossed_NTD.shape[-1]
        if rows_VD.shape[1] != width:
            raise ValueError(f"{self.name} compares embeddings of width {rows_VD.shape[1]} with smashed data of width {width}")
        by_angle = Ranker(lambda crossed: normalize(crossed, dim=-1), normalize(rows_VD, dim=-1))
        by_distance = Ranker(lambda crossed: crossed, rows_VD, bias_R=-rows_VD.square().sum(dim=1) / 2)
        own = view.validation.first(_NUM_VALIDATED)
        meter.take_pieces(len(own))
        rankers = (by_angle, by_distance)
        return max(rankers, key=lambda ranker: token_recovery(ranker.best(own.crossed_NTD.float()), own.ids_NT, own.mask_NT))
