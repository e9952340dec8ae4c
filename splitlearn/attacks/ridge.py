"""A ridge map from what crossed to tokens, in closed form.

Shapes: N pieces of text, T tokens, M vectors, D features, E width of the embedding, C tokens of the auxiliary texts.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize, pad

from splitlearn.attacks.budget import BudgetMeter
from splitlearn.attacks.features import Standardizer
from splitlearn.attacks.ranking import Ranker, RankingAttack
from splitlearn.attacks.scores import token_recovery
from splitlearn.attacks.view import AttackerView, Pieces

# Strength of the penalty, as a share of the features' mean square.
_STRENGTHS = (1e-5, 1e-3, 1e-1)
_NUM_VALIDATED = 4
_ROWS_AT_A_TIME = 4096


class RidgeMap(RankingAttack):
    """Maps smashed data linearly to the token embeddings, and guesses the embedding of the nearest angle.

    Without a public embedding it guesses the auxiliary token whose mean is nearest in the metric of the same regression (linear
    discriminant analysis), and knows no other tokens.
    """

    name = "ridge"

    def fit(self, view: AttackerView, meter: BudgetMeter) -> Ranker:
        """Return the ranker with the best of a few penalties on the validation pieces; see `RankingAttack.fit`."""
        own = view.auxiliary.first(meter.take_pieces(len(view.auxiliary)))
        standardize = Standardizer.fit(own.crossed_NTD)
        moments_DD, sums_CD, counts_C, ids_C = _moments(own, standardize)
        strengths = [strength * moments_DD.diagonal().mean() for strength in _STRENGTHS]
        validated = view.validation.first(_NUM_VALIDATED)
        best: tuple[float, Ranker] | None = None
        for strength in strengths:
            if best is not None and not meter.take_step():
                break
            if view.public is None:
                ranker = _discriminant(moments_DD, sums_CD, counts_C, ids_C, strength, standardize)
            else:
                ranker = _map_to_embedding(moments_DD, sums_CD, view.public_rows(self.name), ids_C, strength, standardize)
            recovery = token_recovery(ranker.best(validated.crossed_NTD), validated.ids_NT, validated.mask_NT)
            if best is None or recovery > best[0]:
                best = recovery, ranker
        assert best is not None  # noqa: S101
        return best[1]


def _features(crossed_NTD: torch.Tensor, standardize: Standardizer) -> torch.Tensor:
    # A last feature of one is the map's constant.
    return pad(standardize(crossed_NTD), (0, 1), value=1.0)


def _moments(own: Pieces, standardize: Standardizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the features' second moments (D, D), their sums by token (C, D), and each token's count and id (C,)."""
    mask_NT = torch.ones_like(own.ids_NT, dtype=torch.bool) if own.mask_NT is None else own.mask_NT
    vectors, tokens = own.crossed_NTD[mask_NT], own.ids_NT[mask_NT]
    ids_C, class_M, counts_C = tokens.unique(return_inverse=True, return_counts=True)
    width = vectors.shape[1] + 1
    moments_DD = torch.zeros(width, width, dtype=torch.float64)
    sums_CD = torch.zeros(len(ids_C), width, dtype=torch.float64)
    for rows, classes in zip(vectors.split(_ROWS_AT_A_TIME), class_M.split(_ROWS_AT_A_TIME), strict=True):
        # Sums of a few thousand products in float32, and these in float64: fast, and without loss that a penalty would notice.
        features_MD = _features(rows, standardize)
        moments_DD += features_MD.T @ features_MD
        sums_CD.index_add_(0, classes, features_MD.double())
    return moments_DD, sums_CD, counts_C.double(), ids_C


def _map_to_embedding(
    moments_DD: torch.Tensor,
    sums_CD: torch.Tensor,
    rows_VE: torch.Tensor,
    ids_C: torch.Tensor,
    strength: torch.Tensor,
    standardize: Standardizer,
) -> Ranker:
    penalty_DD = strength * torch.eye(len(moments_DD), dtype=torch.float64)
    targets_DE = sums_CD.T @ rows_VE[ids_C].double()
    map_DE = torch.linalg.solve(moments_DD + penalty_DD, targets_DE).float()
    return Ranker(lambda crossed: _features(crossed, standardize) @ map_DE, normalize(rows_VE, dim=-1))


def _discriminant(
    moments_DD: torch.Tensor,
    sums_CD: torch.Tensor,
    counts_C: torch.Tensor,
    ids_C: torch.Tensor,
    strength: torch.Tensor,
    standardize: Standardizer,
) -> Ranker:
    total = counts_C.sum()
    means_CD = sums_CD / counts_C[:, None]
    penalty_DD = strength * torch.eye(len(moments_DD), dtype=torch.float64)
    rows_CD = torch.linalg.solve((moments_DD + penalty_DD) / total, means_CD.T).T
    bias_C = -(means_CD * rows_CD).sum(dim=1) / 2
    return Ranker(lambda crossed: _features(crossed, standardize), rows_CD.float().contiguous(), ids_C, bias_C.float())
