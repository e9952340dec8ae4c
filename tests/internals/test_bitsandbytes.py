"""What of bitsandbytes and torchao is not public and this library uses: how a quantized weight is stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.internals.relied_upon import Internal, files_using

bitsandbytes = pytest.importorskip("bitsandbytes")

# Attributes that the library reads if they are there; without them it would miscount without a word.
INTERNALS: list[Internal] = []


def users(name: str) -> str:
    files = files_using(name)
    assert files, f"nothing in splitlearn/ uses {name} any more; take its test away"
    return ", ".join(files)


def quantized() -> Any:
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bitsandbytes.nn.Params4bit(torch.randn(64, 64), requires_grad=False, quant_type="nf4")
    return layer.to("cpu")


def test_a_weight_in_four_bits_says_what_it_holds() -> None:
    change = f"bitsandbytes describes a weight in four bits otherwise; {users('quant_state')} rely on its quant_state"
    state = getattr(quantized().weight, "quant_state", None)
    assert state is not None, change
    assert int(state.shape.numel()) == 64 * 64, change
    assert any(isinstance(value, torch.Tensor) for value in vars(state).values()), change
    assert hasattr(state, "state2"), change


def test_rewriting_for_inference_can_be_turned_off() -> None:
    name = "support_avx512bf16_for_cpu"
    assert hasattr(quantized(), name), f"bitsandbytes has no {name} any more, which {users(name)} turn off"
