"""Tiny models in the layout in which an architecture is published: towers, encoders and heads beside its text model."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

from tests.architectures.catalogue import randomized, tiny_config

# Where transformers keeps the classes that checkpoints are published as; the first that knows a configuration is taken.
_MAPPINGS = (
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_PRETRAINING_MAPPING",
)
# Sizes of towers, whatever their configurations call them.
_TINY = {
    **dict.fromkeys(("hidden_size", "embed_dim", "intermediate_size", "encoder_ffn_dim"), 32),
    **dict.fromkeys(("num_heads", "num_attention_heads", "encoder_attention_heads", "encoder_layers"), 2),
    **dict.fromkeys(("depth", "num_hidden_layers"), 1),
    **dict.fromkeys(("out_hidden_size", "vision_output_dim", "projector_input_dim", "projector_output_dim"), 64),
    "image_size": 28,
    "patch_size": 14,
}


def published_class(config: PreTrainedConfig) -> type[Any] | None:
    """Return the class that checkpoints of a configuration are published as; None if that is the causal LM itself."""
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    for name in _MAPPINGS:
        mapping = getattr(modeling_auto, name, {})
        if type(config) in mapping:
            wrapper = mapping[type(config)]
            return None if wrapper is causal else wrapper
    return None


def published_model(architecture: str) -> Any:
    """Return a tiny model of an architecture's published class, every parameter random; None if it is the causal LM itself."""
    config = tiny_config(architecture)
    model_class = published_class(config)
    if model_class is None:
        return None
    for name in config.sub_configs:
        sub = getattr(config, name, None)
        if sub is not None and name != "text_config":
            for key, value in _TINY.items():
                if hasattr(sub, key):
                    setattr(sub, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomized(model_class(config))
