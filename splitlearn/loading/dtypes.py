"""The dtype in which floating-point weights are loaded, by transformers' rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
from transformers.models.auto.auto_factory import _get_model_class

from splitlearn.checkpoint import CONFIG_FILE, CheckpointError, CheckpointSource, read_config_file
from splitlearn.naming import named

# A model is built in one of these; float8 and the like are for storage alone.
_MODEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_REMEDY = "write bfloat16, float16 or float32 there, or delete it to keep the dtype of the stored weights"


def check_dtype_words(source: CheckpointSource) -> None:
    """Refuse a configuration whose ``dtype`` names none of torch's, before transformers looks it up.

    Args:
        source: the checkpoint.

    Raises:
        CheckpointError: the configuration, or one within it, names a dtype that torch does not have, or the file is damaged or
            has values that no model has.
        FileNotFoundError: there is no configuration.
    """
    settings = read_config_file(source.fetch(CONFIG_FILE))
    inner = {name: value for name, value in settings.items() if name.endswith("config") and isinstance(value, dict)}
    for path, section in (("", settings), *((f"{name}.", value) for name, value in inner.items())):
        key, word = _dtype_entry(section)
        if word is not None and not isinstance(_named(word), torch.dtype):
            raise CheckpointError(
                f"{path}{key} in {CONFIG_FILE} of {source.name} is {word!r}, which is no dtype of torch; {_REMEDY}"
            )


def _dtype_entry(settings: Mapping[str, Any]) -> tuple[str, Any]:
    # torch_dtype is the older spelling, used where the newer one is absent.
    key = "dtype" if settings.get("dtype") is not None else "torch_dtype"
    return key, settings.get(key)


def _named(word: Any) -> Any:
    if isinstance(word, dict):
        # Older transformers took one dtype for each sub-model; the newer one uses the entry under "" for all.
        word = word.get("", "float32")
    return getattr(torch, word, None) if isinstance(word, str) else word


def loaded_dtype(config: PreTrainedConfig, source: CheckpointSource, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype of floating-point weights: ``dtype``, else the configuration's, else that of the stored weights.

    Args:
        config: the unsplit model's configuration.
        source: the checkpoint.
        dtype: the dtype that was chosen; None if none was.

    Raises:
        CheckpointError: there are no floating-point weights, or no model can be built in the configuration's dtype.
        FileNotFoundError: there is no checkpoint.
    """
    if dtype is not None:
        return dtype
    configured = _named(_configuration_of_model(config).dtype)
    if configured is None:
        return source.stored_dtype()
    if configured not in _MODEL_DTYPES:
        raise CheckpointError(
            f"dtype in {CONFIG_FILE} of {source.name} is {configured}, in which no model can be built; "
            f"set {named('dtype')}, or {_REMEDY}"
        )
    model_dtype: torch.dtype = configured
    return model_dtype


def dtype_in_full(chosen: torch.dtype | None, loaded: torch.dtype) -> torch.dtype:
    """Return the dtype of floating-point weights in parts that are themselves trained.

    Weights in 16 bits are held in float32 unless their dtype was chosen: a step that is less than about a 256th of a bfloat16
    weight rounds to nothing, and in float16 the averages of AdamW overflow or vanish.

    Args:
        chosen: the dtype that was chosen; None if none was.
        loaded: the dtype in parts that are not trained, from `loaded_dtype`.
    """
    return loaded if chosen is not None or loaded.itemsize >= torch.float32.itemsize else torch.float32


def _configuration_of_model(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration that transformers builds the causal LM from: for a composite one, often that of the text."""
    model_class = _get_model_class(config, MODEL_FOR_CAUSAL_LM_MAPPING)
    is_text = model_class.config_class == config.sub_configs.get("text_config")
    return config.get_text_config() if is_text else config
