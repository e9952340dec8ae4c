"""What a configuration can change within an architecture and a cut could break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.architectures.catalogue import tiny_model
from tests.architectures.checks import CHECKS, Comparison

_LONG = {"rope_theta": 10000.0, "original_max_position_embeddings": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "rope linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    "rope dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **_LONG}, "max_position_embeddings": 8},
    ),
    "rope yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **_LONG}}),
    "rope llama3": (
        "llama",
        {
            "rope_parameters": {
                **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
                **_LONG,
            }
        },
    ),
    "rope longrope": (
        "phi3",
        {
            "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, **_LONG},
            "original_max_position_embeddings": 8,
        },
    ),
    "window shorter than the text": ("mistral", {"sliding_window": 3}),
    "window longer than the text": ("mistral", {"sliding_window": 64}),
    "no window": ("mistral", {"sliding_window": None}),
    "soft-caps": ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False, "multi_query": True}),
    "norm after, narrow embedding": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "tied head": ("llama", {"tie_word_embeddings": True}),
    "experts in every layer": ("qwen2_moe", {"decoder_sparse_step": 1}),
    "dense layers among experts": ("qwen2_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [2]}),
    "linear and full attention by turns": ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"] * 3}),
    "linear attention in whole parts": ("qwen3_next", {"layer_types": ["full_attention"] * 2 + ["linear_attention"] * 4}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_and_its_parts_are_the_same_model(name: str, tmp_path: Path) -> None:
    architecture, changes = VARIANTS[name]
    tiny_model(architecture, **changes).save_pretrained(tmp_path, max_shard_size="100KB")
    pair = Comparison.load(tmp_path)
    differences = {check: CHECKS[check](pair) for check in ("left padding", "packed", "gradients", "greedy", "router loss")}
    assert set(differences.values()) == {0.0}, differences
