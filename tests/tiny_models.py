"""Tiny random models of many architectures, saved as sharded checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

NUM_LAYERS = 6
VOCAB_SIZE = 99

_COMMON = {
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 128,
    "attention_dropout": 0.1,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA = {**_COMMON, "head_dim": 16}

# Where an architecture names things otherwise, or has something of its own that a cut could break.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_layer": NUM_LAYERS,
        "n_embd": 64,
        "n_head": 4,
        "n_positions": 128,
        "vocab_size": VOCAB_SIZE,
        "scale_attn_by_inverse_layer_idx": True,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "qwen2": {**_COMMON, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3},
    "llama": _COMMON,
    "mistral": {**_COMMON, "sliding_window": 4},
    "qwen3": {**_COMMON, "head_dim": 16},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 16},
    "phi3": {**_COMMON, "resid_pdrop": 0.1},
    "gpt_neox": {**_COMMON, "hidden_dropout": 0.1},
    "opt": {**_COMMON, "ffn_dim": 96, "word_embed_proj_dim": 32, "dropout": 0.1},
    "mixtral": {**_COMMON, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "olmo2": _COMMON,
}


def tiny_config(model_type: str, **changes: Any) -> Any:
    """Return a configuration of six small layers."""
    return AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})


def tiny_model(model_type: str, **changes: Any) -> Any:
    """Return a tiny model whose every parameter is random, so that no difference can hide behind a zero or a one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def write_tiny_checkpoint(folder: Path, model_type: str, max_shard_size: str = "100KB", **changes: Any) -> Path:
    """Save a tiny model as a sharded checkpoint."""
    tiny_model(model_type, **changes).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def recompute_activations(model: Any, on: bool = True) -> None:
    """Have a model compute activations again in the backward pass, or keep them; transformers renamed both methods in 5.2x."""
    word = "enable" if on else "disable"
    switch = getattr(model, f"activation_checkpointing_{word}", None) or getattr(model, f"gradient_checkpointing_{word}")
    switch(*[{"use_reentrant": False}] if on else [])


def token_ids(rows: int = 3, tokens: int = 11, seed: int = 5) -> torch.Tensor:
    """Return random token ids of shape (rows, tokens) without the special ones."""
    return torch.randint(3, VOCAB_SIZE, (rows, tokens), generator=torch.Generator().manual_seed(seed))
