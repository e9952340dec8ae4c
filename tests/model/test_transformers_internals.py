"""Names each thing of transformers that is not its public interface and that this library leans on."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
import transformers
from transformers import Cache, GenerationMixin, PreTrainedModel

# Where it is, what we pass it, and what for.
CALLED: dict[str, tuple[str, set[str], str]] = {
    "no_init_weights": ("transformers.initialization", set(), "structures without the time that random weights take"),
    "get_model_conversion_mapping": (
        "transformers.conversion_mapping",
        {"model"},
        "which rules convert a checkpoint's tensors",
    ),
    "rename_source_key": (
        "transformers.core_model_loading",
        {"source_key", "weight_renamings", "weight_converters", "base_model_prefix", "meta_state_dict"},
        "the name of a checkpoint tensor in the model",
    ),
    "WeightConverter": (
        "transformers.core_model_loading",
        {"source_patterns", "target_patterns"},
        "conversions that merge or split",
    ),
    "WeightRenaming": ("transformers.core_model_loading", {"source_patterns", "target_patterns"}, "conversions that rename"),
}
ATTRIBUTES: list[tuple[Any, str, str]] = [
    (PreTrainedModel, "_keys_to_ignore_on_load_missing", "tensors that a checkpoint may lack"),
    (PreTrainedModel, "_keys_to_ignore_on_load_unexpected", "tensors that a checkpoint may have beyond the model's"),
    (PreTrainedModel, "_keep_in_fp32_modules", "modules that stay in float32 whatever the dtype"),
    (PreTrainedModel, "_keep_in_fp32_modules_strict", "modules that stay in float32 whatever the dtype"),
    (PreTrainedModel, "_tied_weights_keys", "forgetting ties that a part has no two ends of"),
    (PreTrainedModel, "set_experts_implementation", "what generate switches while it decodes"),
    (PreTrainedModel, "initialize_weights", "buffers that no checkpoint holds"),
    (GenerationMixin, "_supports_default_dynamic_cache", "whether the model's cache can be divided among parts"),
    (Cache, "get_mask_sizes", "masks of parts whose layers do not count tokens"),
    (Cache, "has_previous_state", "linear attention in parts without any"),
]


def moved(name: str, purpose: str) -> str:
    return f"transformers {transformers.__version__} has moved or changed {name}, which gives us {purpose}"


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called(name: str) -> None:
    module, parameters, purpose = CALLED[name]
    found = getattr(import_module(module), name, None)
    assert found is not None, moved(f"{module}.{name}", purpose)
    assert parameters <= set(inspect.signature(found).parameters), moved(f"{module}.{name}", purpose)


@pytest.mark.parametrize(("owner", "name", "purpose"), ATTRIBUTES)
def test_attributes(owner: Any, name: str, purpose: str) -> None:
    assert hasattr(owner, name), moved(f"{owner.__name__}.{name}", purpose)


def test_what_every_model_and_configuration_has() -> None:
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )
    assert isinstance(model.all_tied_weights_keys, dict), moved("all_tied_weights_keys", "which parameters are one")
    assert isinstance(model.config.sub_configs, dict), moved("sub_configs", "whether a model is more than a text model")


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
