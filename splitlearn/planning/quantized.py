"""The size of quantized weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from splitlearn.loading import quantization_config
from splitlearn.model import stored_bytes
from splitlearn.silence import silent_transformers

# Side of the sample weight, large enough that scales of rows or blocks add little.
_SIZE = 1024


def bytes_per_value(quantization: Any, dtype: torch.dtype) -> float:
    """Return the bytes that a quantized weight takes for each of its values, scales included, by quantizing a small one.

    Args:
        quantization: plain settings, as for `quantization_config`.
        dtype: the model's.
    """
    config = LlamaConfig(vocab_size=8, hidden_size=_SIZE, intermediate_size=_SIZE, num_hidden_layers=1, num_attention_heads=8)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in LlamaForCausalLM(config).named_parameters()}
    with silent_transformers():
        model = LlamaForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict={name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()},
            dtype=dtype,
            quantization_config=quantization_config(quantization),
        )
    return stored_bytes(model.model.layers[0].self_attn.q_proj.weight) / _SIZE**2
