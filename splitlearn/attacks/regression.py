"""Linear regression from what crossed to tokens, in closed form.

Shapes: N pieces of text, T tokens, D features (the last is 1), E width of the embedding, C tokens of the auxiliary texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from splitlearn.attacks.features import Standardizer
from splitlearn.attacks.view import Pieces

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False)
class Moments:
    """What a regression must know of the auxiliary pieces.

    Attributes:
        standardize: puts what crossed on one scale.
        features_DD: second moments of the features, shape (D, D).
        sums_CD: sum of the features by token, shape (C, D).
        counts_C: how often each token occurs, shape (C,).
        ids_C: the tokens' ids in order, shape (C,).
    """

    standardize: Standardizer
    features_DD: torch.Tensor
    sums_CD: torch.Tensor
    counts_C: torch.Tensor
    ids_C: torch.Tensor

    @classmethod
    def measure(cls, own: Pieces, standardize: Standardizer) -> Moments:
        """Add up the features of auxiliary pieces.

        Args:
            own: the pieces.
            standardize: puts what crossed on one scale.
        """
        mask_NT = torch.ones_like(own.ids_NT, dtype=torch.bool) if own.mask_NT is None else own.mask_NT
        vectors, tokens = own.crossed_NTD[mask_NT], own.ids_NT[mask_NT]
        ids_C, class_M, counts_C = tokens.unique(return_inverse=True, return_counts=True)
        width = with_constant(standardize(vectors[:1])).shape[1]
        features_DD = torch.zeros(width, width, dtype=torch.float64)
        sums_CD = torch.zeros(len(ids_C), width, dtype=torch.float64)
        for rows, classes in zip(vectors.split(_ROWS_AT_A_TIME), class_M.split(_ROWS_AT_A_TIME), strict=True):
            # Sums of a few thousand products in float32, and of these in float64: fast, and exact enough for any penalty.
            features_MD = with_constant(standardize(rows))
            features_DD += features_MD.T @ features_MD
            sums_CD.index_add_(0, classes, features_MD.double())
        return cls(standardize, features_DD, sums_CD, counts_C.double(), ids_C)

    def map_to(self, rows_VE: torch.Tensor, strength: float) -> torch.Tensor:
        """Return the ridge map from features to the tokens' embeddings, shape (D, E).

        Args:
            rows_VE: the embeddings of all tokens.
            strength: of the penalty, as a share of the features' mean square.
        """
        targets_DE = self.sums_CD.T @ rows_VE[self.ids_C].double()
        return torch.linalg.solve(self._penalised(strength), targets_DE).float()

    def discriminant(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a row (C, D) and a bias (C,) for each token: linear discriminant analysis in which all are as frequent.

        Args:
            strength: of the penalty, as a share of the features' mean square.
        """
        means_CD = self.sums_CD / self.counts_C[:, None]
        rows_CD = torch.linalg.solve(self._penalised(strength) / self.counts_C.sum(), means_CD.T).T
        bias_C = -(means_CD * rows_CD).sum(dim=1) / 2
        return rows_CD.float().contiguous(), bias_C.float()

    def _penalised(self, strength: float) -> torch.Tensor:
        penalty = strength * self.features_DD.diagonal().mean()
        return self.features_DD + penalty * torch.eye(len(self.features_DD), dtype=torch.float64)


def with_constant(features: torch.Tensor) -> torch.Tensor:
    """Return features (..., D - 1) with a last one of 1, whose weights are a map's constants."""
    return pad(features, (0, 1), value=1.0)
