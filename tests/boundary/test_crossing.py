"""The two halves of a crossing, between devices."""

from __future__ import annotations

import torch

from splitlearn.boundary.codecs import Columns
from splitlearn.boundary.crossing import receive, send

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


def test_a_gradient_goes_back_to_the_device_that_the_tensor_came_from() -> None:
    """Tensors on the meta device stand for those on a GPU; they have no values, so zeros are sent in their place."""

    def encode(place: int, tensor: torch.Tensor) -> Columns:
        return {"values": torch.zeros(tensor.shape)}

    def decode(place: int, columns: Columns, dtype: torch.dtype) -> torch.Tensor:
        decoded_at.append(columns["values"].device)
        return columns["values"]

    decoded_at: list[torch.device] = []
    leaf = torch.zeros(2, 3, device=ELSEWHERE, requires_grad=True)
    ticket, wire = send([leaf], encode, decode, lambda gradient: None)
    (received,) = receive(ticket, wire, CPU, decode, encode)
    assert received.device == CPU
    received.sum().backward()
    assert leaf.grad is not None and leaf.grad.device == ELSEWHERE
    assert decoded_at == [CPU, ELSEWHERE], "decoding is done where the result is wanted"
