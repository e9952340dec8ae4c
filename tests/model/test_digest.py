"""Digests tell models apart by names, kinds and values of their tensors."""

from __future__ import annotations

import torch

from splitlearn.model.digest import digest

ONE, TWO = torch.arange(6.0), torch.arange(6.0) + 1


def test_it_depends_on_names_kinds_and_values() -> None:
    whole = {"a": ONE, "b": TWO}
    others = [
        {"a": TWO, "b": ONE},
        {"b": ONE, "a": TWO},
        {"a": ONE, "c": TWO},
        {"a": ONE},
        {"a": ONE, "b": TWO.view(torch.int32)},
        {"a": ONE, "b": TWO.view(2, 3)},
        {"a": ONE, "b": TWO.clone().index_fill_(0, torch.tensor([5]), 7.0)},
    ]
    digests = [digest(tensors.items()) for tensors in (whole, *others)]
    assert len(set(digests)) == len(digests)


def test_it_does_not_depend_on_how_a_tensor_lies_in_memory() -> None:
    apart = torch.stack([ONE, TWO], dim=1)[:, 0]
    assert not apart.is_contiguous()
    parameter = torch.nn.Parameter(apart)
    assert digest([("a", parameter)]) == digest([("a", ONE)])


def test_half_precision_has_one_too() -> None:
    assert digest([("a", ONE.bfloat16())]) != digest([("a", ONE.half())])
