"""Reading a checkpoint's configuration and generation settings; no weights are touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig

from splitlearn.checkpoint import CONFIG_FILE, CheckpointError, CheckpointSource, read_config_file
from splitlearn.loading.dtypes import check_dtype_words
from splitlearn.model import UnsupportedModelError
from splitlearn.naming import named
from splitlearn.redaction import reason_of


def read_config(model_name_or_path: str | Path, model_type: str | None = None, revision: str | None = None) -> PreTrainedConfig:
    """Read a model's configuration; no weights are touched.

    Args:
        model_name_or_path: a local folder or a hub id.
        model_type: the architecture that the caller expects, as transformers names it; None accepts any.
        revision: branch, tag or commit of a hub's repository; None is its main branch.

    Returns:
        The configuration of the unsplit model.

    Raises:
        FileNotFoundError: there is no such model.
        CheckpointError, UnsupportedModelError: as `read_config_of` raises them.
    """
    return read_config_of(CheckpointSource(model_name_or_path, revision), model_type)


def read_config_of(source: CheckpointSource, model_type: str | None = None) -> PreTrainedConfig:
    """Read the configuration of a checkpoint; no weights are touched.

    Args:
        source: the checkpoint.
        model_type: the architecture that the caller expects, as transformers names it; None accepts any.

    Returns:
        The configuration of the unsplit model.

    Raises:
        FileNotFoundError: there is no configuration, or the hub is out of reach.
        CheckpointError: there is a PEFT adapter beside the weights or in their place, the weights are quantized, or the
            configuration names a dtype that torch does not have.
        UnsupportedModelError: the architecture is unknown, is not ``model_type``, or has no causal LM.
    """
    source.refuse_adapter()
    if source.is_local and not (Path(source.name) / "config.json").is_file():
        raise FileNotFoundError(f"{source.name} has no config.json; is it a model folder?")
    try:
        check_dtype_words(source)
        commit = {} if source.is_local else {"revision": source.commit}
        config = AutoConfig.from_pretrained(source.name, trust_remote_code=False, **commit)
    except CheckpointError:
        raise
    except OSError as error:
        raise FileNotFoundError(f"no model configuration for {source.name}: {reason_of(error)}") from error
    except Exception as error:
        # Configuration classes compute with the values in the file, so a bad value can raise any exception.
        raise UnsupportedModelError(f"{CONFIG_FILE} of {source.name} cannot be used: {reason_of(error)}") from error
    refuse_quantized(config, source.name)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(f"{source.name} is a {config.model_type} model, of which transformers has no causal LM")
    if model_type is not None and config.model_type != model_type:
        raise UnsupportedModelError(
            f"model_type is {model_type!r}, but {source.name} is a {config.model_type!r} model; "
            f"pass {config.model_type!r}, or null to accept what is there"
        )
    return config


def read_generation_config(source: CheckpointSource) -> GenerationConfig | None:
    """Read how a checkpoint's authors generate with it, as transformers does: from a file of its own, or from ``config.json``.

    Args:
        source: the checkpoint.

    Returns:
        The settings, or None if the hub is out of reach.

    Raises:
        CheckpointError: the settings cannot be parsed.
    """
    # Checkpoints from before generation_config.json have their settings in config.json; the configuration's class drops them.
    for file, options in (("generation_config.json", {}), ("config.json", {"_from_model_config": True})):
        try:
            path = source.fetch(file)
        except FileNotFoundError:
            continue
        return _parse_generation_config(path, options)
    return None


def _parse_generation_config(path: Path, options: Mapping[str, Any]) -> GenerationConfig:
    # Refuse a file that is no JSON or too large before transformers reads it.
    read_config_file(path)
    try:
        return GenerationConfig.from_pretrained(path.parent, config_file_name=path.name, **options)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be used ({reason_of(error)}); mend or delete it") from error


def refuse_quantized(config: PreTrainedConfig, checkpoint: str) -> None:
    """Refuse a checkpoint whose weights are quantized already: parts are cut from plain tensors.

    Args:
        config: the model's configuration.
        checkpoint: the checkpoint's name in the message.

    Raises:
        CheckpointError: the configuration, or that of its text model, has a quantization.
    """
    for own_config in (config, config.get_text_config(decoder=True)):
        settings = getattr(own_config, "quantization_config", None)
        if settings:
            values = settings if isinstance(settings, dict) else getattr(settings, "to_dict", dict)()
            method = values.get("quant_method") or ("bitsandbytes" if any("bit" in name for name in values) else "not named")
            raise CheckpointError(
                f"{checkpoint} is quantized already (quantization_config in config.json: {getattr(method, 'value', method)}), "
                "and only plain weights can be cut: name the checkpoint that it was made from, or let transformers load it, "
                f"dequantize() it and save it; {named('quantization')}=int8 or nf4 quantizes frozen parts while they are loaded"
            )
