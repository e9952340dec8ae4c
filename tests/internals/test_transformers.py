"""What of transformers is not public and this library uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.internals.relied_upon import Internal, check

MODEL = "transformers:PreTrainedModel"
LOADING = "transformers.core_model_loading"
RULES = ("source_patterns", "target_patterns")
NAMES = ("source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict")


def tiny_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )


INTERNALS = [
    Internal("transformers.initialization", "no_init_weights", "structures without the time that random weights take"),
    Internal("transformers.conversion_mapping", "get_model_conversion_mapping", "how a checkpoint is converted", ("model",)),
    Internal(LOADING, "rename_source_key", "the name of a checkpoint tensor in the model", NAMES),
    Internal(LOADING, "WeightConverter", "conversions that merge or split", RULES),
    Internal(LOADING, "WeightRenaming", "conversions that rename", RULES),
    Internal(LOADING, "WeightTransform", "what conversions have in common"),
    Internal(
        "transformers.models.auto.auto_factory",
        "_get_model_class",
        "the class for a configuration",
        ("config", "model_mapping"),
    ),
    Internal("transformers.quantizers.auto", "AutoHfQuantizer", "which layers would be quantized"),
    Internal("transformers.quantizers.auto", "AutoQuantizationConfig", "settings of quantization from plain values"),
    Internal("transformers.loss.loss_utils", "ForCausalLMLoss", "transformers' own loss", ("logits", "labels", "vocab_size")),
    Internal("transformers.cache_utils", "CacheLayerMixin", "a cache's layer whose content is with a part elsewhere"),
    Internal("transformers.pytorch_utils", "Conv1D", "the linear layers of GPT-2"),
    Internal(MODEL, "_keys_to_ignore_on_load_missing", "tensors that a checkpoint may lack"),
    Internal(MODEL, "_keys_to_ignore_on_load_unexpected", "tensors that a checkpoint may have beyond the model's"),
    Internal(MODEL, "_tied_weights_keys", "forgetting ties that a part has no two ends of"),
    Internal(MODEL, "_init_weights", "what transformers changes after loading", ("module",)),
    Internal(MODEL, "initialize_weights", "buffers that no checkpoint holds"),
    Internal(MODEL, "set_experts_implementation", "what generate switches while it decodes"),
    Internal("transformers:GenerationMixin", "_supports_default_dynamic_cache", "whether a cache can be divided among parts"),
    Internal(
        "transformers:Cache", "get_mask_sizes", "masks of parts whose layers do not count tokens", ("query_length", "layer_idx")
    ),
    Internal("transformers:Cache", "has_previous_state", "linear attention in parts without any", ("layer_idx",)),
    Internal(tiny_config, "_attn_implementation", "the attention that saved parts are read with"),
    Internal("transformers:PreTrainedConfig", "_decode_special_floats", "infinities in a saved part's configuration"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("transformers", internal)


def test_marked_parameters_are_not_initialised_again() -> None:
    model = transformers.LlamaForCausalLM(tiny_config())
    marked, other = model.lm_head.weight, model.model.embed_tokens.weight
    with torch.no_grad():
        marked.fill_(7.0)
        other.fill_(7.0)
    for module in model.modules():
        module._is_hf_initialized = False  # type: ignore[assignment]
    marked._is_hf_initialized = True
    model.initialize_weights()
    assert (marked == 7.0).all(), "transformers initialises parameters in spite of _is_hf_initialized (loading/filling.py)"
    assert not (other == 7.0).any(), "initialize_weights leaves all parameters as they are (loading/filling.py)"


def test_generation_settings_are_read_from_older_configurations(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_length": 77}))
    settings: Any = transformers.GenerationConfig.from_pretrained(
        tmp_path, config_file_name="config.json", _from_model_config=True
    )
    assert settings.max_length == 77 and settings._from_model_config


def test_modules_that_stay_in_float32_are_named_as_before() -> None:
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    assert all(hasattr(transformers.PreTrainedModel, name) for name in names), (
        "modules that stay in float32 are named otherwise"
    )


def test_what_every_model_and_configuration_has() -> None:
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )
    assert isinstance(model.all_tied_weights_keys, dict), (
        "all_tied_weights_keys no longer says which parameters are one (model/ties.py)"
    )
    assert isinstance(model.config.sub_configs, dict), "sub_configs no longer says whether a model is more than a text model"


def test_a_model_can_be_filled_from_a_dictionary_of_tensors() -> None:
    """``from_pretrained(None, state_dict=...)`` is how a part is filled, whatever its tensors come from."""
    config = transformers.LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )
    model = transformers.LlamaForCausalLM(config)
    # With `output_loading_info` it returns a pair, which its types do not say.
    loaded: Any = transformers.LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=model.state_dict(), output_loading_info=True
    )
    filled, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all((left == right).all() for left, right in zip(model.parameters(), filled.parameters(), strict=True))
