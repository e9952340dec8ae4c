"""Clients' gradients are kept apart until a step, which is taken with their mean."""

from __future__ import annotations

import torch

from splitlearn.training import mean_gradients


def test_a_client_without_a_gradient_counts_as_zero() -> None:
    shares = [{"a": torch.tensor([4.0]), "b": torch.tensor([2.0])}, {"a": torch.tensor([2.0])}]
    means = mean_gradients(shares)
    assert {name: mean.tolist() for name, mean in means.items()} == {"a": [3.0], "b": [1.0]}


def test_one_clients_gradients_are_its_own() -> None:
    gradient = torch.tensor([4.0])
    assert mean_gradients([{"a": gradient}])["a"] is gradient
    assert mean_gradients([]) == {}
