"""What goes to another device, and how."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitlearn.boundary import to_device


class Moved(torch.Tensor):
    """Notes how it was asked to move, and stays, so that no GPU need be there."""

    moves: list[tuple[str, bool]]

    def to(self, device: torch.device, non_blocking: bool = False) -> Moved:  # type: ignore[override]
        self.moves.append((device.type, non_blocking))
        return self


def moved() -> Moved:
    tensor = torch.zeros(2).as_subclass(Moved)
    tensor.moves = []
    return tensor


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_only_copies_to_a_gpu_may_still_be_under_way(kind: str) -> None:
    tensor = moved()
    to_device(tensor, torch.device(kind))
    assert tensor.moves == [(kind, kind == "cuda")]


def test_tensors_within_other_values_go_along() -> None:
    on_meta = torch.device("meta")
    value: dict[str, Any] = {"mask": {"full": torch.zeros(1)}, "list": [torch.zeros(1)], "pair": (torch.zeros(1), 3)}
    there = to_device(value, on_meta)
    assert there["mask"]["full"].device == there["list"][0].device == there["pair"][0].device == on_meta
    assert type(there["list"]) is list and type(there["pair"]) is tuple and there["pair"][1] == 3
