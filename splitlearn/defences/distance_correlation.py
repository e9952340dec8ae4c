"""Distance correlation: how strongly two sets of vectors depend on each other, linearly or not.

Shapes: N samples, D and E numbers of each.
"""

from __future__ import annotations

import torch


def distance_correlation(x_ND: torch.Tensor, y_NE: torch.Tensor) -> torch.Tensor:
    """Return the distance correlation of two samples, after Székely, Rizzo and Bakirov (2007).

    It takes N x N distances of each, and time N x N x (D + E).

    Args:
        x_ND: the first vectors, shape (N, D).
        y_NE: the second, shape (N, E); differentiable.

    Returns:
        A scalar from 0 (independent, for large N) to 1; 0 where one of the two does not vary.
    """
    a_NN, b_NN = _centred_distances(x_ND), _centred_distances(y_NE)
    tiny = torch.finfo(a_NN.dtype).tiny
    covariance = (a_NN * b_NN).mean()
    variances = (a_NN.square().mean() * b_NN.square().mean()).clamp(min=tiny).sqrt()
    # The square root has no finite slope at 0.
    return (covariance / variances).clamp(min=torch.finfo(a_NN.dtype).eps ** 2).sqrt()


def _centred_distances(x_ND: torch.Tensor) -> torch.Tensor:
    """Return Euclidean distances less the means of their rows and columns, plus the mean of all."""
    values = x_ND if x_ND.dtype == torch.float64 else x_ND.float()
    # By matrix products small distances between large vectors would be rounding errors.
    distances_NN = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    means_N = distances_NN.mean(dim=0)
    return distances_NN - means_N - means_N.unsqueeze(1) + means_N.mean()
