"""What of torchao is not public and this library uses."""

from __future__ import annotations

import pytest
import torch

from tests.internals.relied_upon import Internal, files_using

quantization = pytest.importorskip("torchao.quantization")

INTERNALS: list[Internal] = []


def test_a_quantized_weight_is_flattened_to_its_tensors() -> None:
    users = files_using("__tensor_flatten__")
    assert users, "nothing in splitlearn/ flattens quantized weights any more; take this test away"
    layer = torch.nn.Linear(64, 64, bias=False)
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig(version=2))
    change = f"torchao stores quantized weights otherwise; {', '.join(users)} rely on __tensor_flatten__"
    assert hasattr(layer.weight, "__tensor_flatten__"), change
    names, _ = layer.weight.__tensor_flatten__()
    assert all(isinstance(getattr(layer.weight, name), torch.Tensor) for name in names), change
