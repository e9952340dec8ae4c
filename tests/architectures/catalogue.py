"""A tiny configuration for every causal LM that transformers knows: six narrow layers with all that its cut could break.

The configuration of an architecture is its default one with every size replaced by a small one of the same meaning. What an
architecture needs beyond that stands in `SETTINGS`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

NUM_LAYERS = 6
VOCAB_SIZE = 99
HIDDEN_SIZE = 64
_MOST_PARAMETERS = 5_000_000

ARCHITECTURES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

_NUMBERS: dict[int, tuple[str, ...]] = {
    NUM_LAYERS: (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "decoder_layers",
        "num_decoder_layers",
        "num_blocks",
    ),
    HIDDEN_SIZE: (
        *("hidden_size", "n_embd", "n_embed", "d_model", "dim_model", "emb_dim", "embedding_size", "embedding_dim"),
        *("word_embed_proj_dim", "input_embedding_size", "output_embedding_size", "lru_width", "attention_hidden_size"),
    ),
    96: (
        *(
            "intermediate_size",
            "n_inner",
            "ffn_dim",
            "decoder_ffn_dim",
            "ffn_hidden_size",
            "feed_forward_size",
            "dim_ff",
            "dff",
        ),
        *("d_inner", "intermediate_size_mlp", "dense_intermediate_size"),
    ),
    32: (
        *("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size"),
        *("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size", "router_hidden_size", "q_lora_rank"),
        *("o_lora_rank", "adapter_rank", "gated_norm_rank", "d_rel", "rel_extent", "hc_lowrank"),
    ),
    4: (
        *("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads"),
        *(
            "encoder_attention_heads",
            "num_encoder_attention_heads",
            "num_decoder_attention_heads",
            "swa_num_attention_heads",
            "linear_num_value_heads",
            "linear_num_heads",
        ),
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "max_window_layers"),
        *("sliding_window", "attention_chunk_size", "window_size", "sliding_window_size", "keep_window_size"),
        *("index_topk", "time_step_rank", "mamba_dt_rank", "conv_kernel"),
    ),
    2: (
        *("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups", "linear_num_key_heads"),
        *(
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_topk",
            "moe_k",
            "index_n_heads",
            "decoder_sparse_step",
            "mamba_expand",
            "expand",
        ),
        *("num_global_key_value_heads",),
    ),
    1: (
        *("n_group", "n_groups", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts", "mamba_n_groups"),
        *("moe_num_shared_experts", "zero_expert_num", "first_k_dense_replace", "moe_layer_start_index", "moe_layer_freq"),
        *("num_nextn_predict_layers", "num_mem_blocks", "num_memory_blocks"),
    ),
    8: (
        *("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "mamba_n_heads", "mamba_num_heads"),
        *(
            "mamba_d_state",
            "state_size",
            "ssm_state_size",
            "mamba_chunk_size",
            "chunk_size",
            "block_size",
            "hidden_size_per_layer_input",
            "laurel_rank",
        ),
        *("index_block_size", "block_multiple_of", "attention_window_size", "local_attention"),
    ),
    16: (
        *("head_dim", "attention_head_dim", "attention_head_size", "global_head_dim", "swa_head_dim", "kv_lora_rank"),
        *(
            "v_head_dim",
            "qk_head_dim",
            "index_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_head_dim",
            "mamba_d_head",
        ),
        *("mamba_head_dim", "mamba_headdim", "d_head", "dim_head", "kv_channels", "pronunciation_embed_dim", "shape_embed_dim"),
        *("ple_embed_dim",),
    ),
    128: (
        *("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "model_max_length", "context_length"),
        *("mamba_d_ssm", "max_target_positions"),
    ),
    VOCAB_SIZE: ("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"),
}
_RATES: tuple[str, ...] = (
    "attention_dropout",
    "attn_pdrop",
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
)
_RATES += ("attention_probs_dropout_prob", "resid_dropout", "embed_dropout", "embedding_dropout", "dropout")
_SIZES: dict[str, Any] = {name: value for value, names in _NUMBERS.items() for name in names}
_SIZES |= dict.fromkeys(_RATES, 0.1)
# Wide enough that every part changes the logits, and values other than 1 where a bug could multiply twice.
_SIZES |= {"initializer_range": 0.1, "initializer_std": 0.1, "init_std": 0.1, "embedding_multiplier": 3.0}
_SIZES |= {"logits_scaling": 2.0}
_SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2, "cls_token_id": 1}
_SIZES |= {"rope_scaling": None, "use_sliding_window": True, "use_mamba_kernels": False}
_SIZES |= {"scale_attn_by_inverse_layer_idx": True, "is_decoder": True, "is_encoder_decoder": False}
# Lists with one entry for each layer: left out, so that the configuration makes them anew for six layers.
_PER_LAYER: tuple[str, ...] = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "moe_layers",
    "attention_layers",
)
_PER_LAYER += ("hybrid_layer_ids", "per_layer_config", "layers_block_types", "block_types")

_MLA = {"num_key_value_heads": 4, "head_dim": 8}
_SLIDING_THRICE = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "axk1": _MLA,
    "axk2": {"head_dim": 8, "num_key_value_heads": 4},
    "bailing_hybrid": {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1},
    "blenderbot": {"num_hidden_layers": NUM_LAYERS},
    "bamba": {"attn_layer_indices": [1, 3, 5]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "attn_pdrop": 0.1, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "resid_pdrop": 0.1,
    },
    "deepseek_v2": _MLA,
    "deepseek_v3": _MLA,
    "deepseek_v32": {"head_dim": 8, "num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "diffllama": {"attention_dropout": 0.0},
    "falcon": {"alibi": False, "new_decoder_architecture": True},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * NUM_LAYERS, **_SLIDING_THRICE},
    "gemma4_text": {"num_kv_shared_layers": 0, **_SLIDING_THRICE},
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "glm_moe_dsa": {"head_dim": 8, "num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], NUM_LAYERS // 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 3, "num_dense_layers": 2},
    "kimi_linear": {"num_key_value_heads": 4},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "longcat_flash": _MLA,
    "mamba2": {"num_heads": 8},
    "minicpm3": {"num_key_value_heads": 4},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        }
    },
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"] * 2},
    "opt": {"word_embed_proj_dim": 32},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 16], "attn_layers": ["local", "lsh"] * 3},
    "xlstm": {"qk_dim_factor": 1.0},
    "youtu": _MLA,
    "zamba": {"layers_block_type": ["hybrid", "linear_attention"] * 3},
    "zamba2": {"layers_block_type": ["hybrid", "linear_attention"] * 3},
    "whisper": {"num_hidden_layers": NUM_LAYERS},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(architecture: str, **changes: Any) -> Any:
    """Return the tiny configuration of an architecture.

    Args:
        architecture: its key in transformers' mapping.
        **changes: settings of the text model to use instead.
    """
    config_class = CONFIG_MAPPING[architecture]
    settings = _tiny_settings(config_class()) | copy.deepcopy(SETTINGS.get(architecture, {}))
    text = settings.get("text_config")
    (settings if text is None else text).update(changes)
    return config_class(**settings)


def _tiny_settings(default: Any) -> dict[str, Any]:
    settings = _shrunk(default, getattr(type(default), "attribute_map", {}))
    text = getattr(default, "text_config", None)
    if "text_config" in getattr(default, "sub_configs", {}) and text is not None:
        quirks = copy.deepcopy(SETTINGS.get(text.model_type, {}))
        settings["text_config"] = _tiny_settings(text) | quirks | {"model_type": text.model_type}
    return settings


def _shrunk(default: Any, aliases: dict[str, str]) -> dict[str, Any]:
    num_layers = getattr(default, "num_hidden_layers", None)
    settings = default.to_dict()
    for name in ("transformers_version", "architectures", "model_type", "dtype"):
        settings.pop(name, None)
    for name, value in list(settings.items()):
        is_per_layer = isinstance(value, (list, tuple)) and len(value) == num_layers and num_layers > 2
        if name in _PER_LAYER or is_per_layer:
            del settings[name]
        elif name in _SIZES and name not in aliases:
            settings[name] = _SIZES[name]
    rope = settings.get("rope_parameters")
    if rope and "rope_type" in rope:
        settings["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            **{name: rope[name] for name in ("partial_rotary_factor",) if name in rope},
        }
    return settings


def tiny_model(architecture: str, **changes: Any) -> Any:
    """Return a tiny model in evaluation mode whose every parameter is random, so that no zero or one can hide a difference."""
    config = tiny_config(architecture, **changes)
    with torch.device("meta"):
        num_parameters = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    if num_parameters > _MOST_PARAMETERS:
        raise ValueError(f"the tiny {architecture} has {num_parameters} parameters: a size is missing in this catalogue")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomized(AutoModelForCausalLM.from_config(config))


def randomized(model: Any) -> Any:
    """Return a model in evaluation mode after moving each of its parameters by chance."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()
