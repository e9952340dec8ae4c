"""Weights in few bits, by transformers' own quantizers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint
from splitlearn.naming import named

# Short names for common quantizations. Others are given as the settings of transformers' config, with quant_method.
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "int8": {"quant_method": "torchao", "quant_type": "Int8WeightOnlyConfig"},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
# Settings of transformers' configurations that list the modules to leave alone.
_SKIPPED = ("modules_to_not_convert", "llm_int8_skip_modules")
_PACKAGES = {"torchao": "torchao", "bitsandbytes": "bitsandbytes"}


def quantization_config(quantization: str | Mapping[str, Any] | None) -> Any:
    """Return transformers' configuration of a quantization; None for None.

    Args:
        quantization: one of `QUANTIZATIONS`, or the settings of a configuration of transformers with its ``quant_method``. A
            ``quant_type`` of torchao is the name of one of its configuration classes.

    Raises:
        ValueError: the name, the method or a setting is unknown.
        ImportError: the package that quantizes is not installed.
    """
    if quantization is None:
        return None
    settings = quantization_settings(quantization)
    method = settings["quant_method"]
    try:
        if method == "torchao":
            return _torchao_config(settings)
        return AutoQuantizationConfig.from_dict(settings)
    except ModuleNotFoundError as error:
        raise ImportError(f"{named('quantization')}={quantization} needs the package {method}: pip install {method}") from error
    except TypeError as error:
        raise ValueError(f"{named('quantization')} cannot be used: {error}") from error


def quantization_settings(quantization: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a quantization stands for, with a known ``quant_method``; no quantizing package is imported.

    Args:
        quantization: as for `quantization_config`.

    Raises:
        ValueError: the name or the method is unknown.
    """
    if isinstance(quantization, str):
        if quantization not in QUANTIZATIONS:
            names = ", ".join(QUANTIZATIONS)
            raise ValueError(f"{named('quantization')} is {quantization!r}; use {names}, or settings with quant_method")
        return dict(QUANTIZATIONS[quantization])
    method = quantization.get("quant_method")
    if method not in _PACKAGES:
        raise ValueError(f"{named('quantization.quant_method')} is {method!r}; use one of {', '.join(_PACKAGES)}")
    return dict(quantization)


def _torchao_config(settings: dict[str, Any]) -> Any:
    # torchao is optional, so import it here.
    import torchao.quantization
    from transformers import TorchAoConfig

    name = settings.pop("quant_type", None)
    settings.pop("quant_method")
    config_class = getattr(torchao.quantization, str(name), None)
    if not isinstance(config_class, type):
        raise ValueError(f"{named('quantization.quant_type')} is {name!r}; name a class of torchao.quantization")
    skipped = {key: settings.pop(key) for key in ("modules_to_not_convert",) if key in settings}
    return TorchAoConfig(config_class(**settings), **skipped)


def quantized_names(model: PreTrainedModel, quantization: Any) -> frozenset[str]:
    """Return the names of the parameters that transformers quantizes in a model.

    Args:
        model: the unsplit model on the meta device.
        quantization: transformers' configuration, from `quantization_config`.
    """
    quantizer = AutoHfQuantizer.from_config(copy.deepcopy(quantization), pre_quantized=False)
    skeleton = copy.deepcopy(model)
    quantizer.preprocess_model(skeleton, device_map=None)
    return frozenset(name for name, _ in skeleton.named_parameters() if quantizer.param_needs_quantization(skeleton, name))


def quantization_of_part(
    quantization: Any, model: PreTrainedModel, blueprint: Blueprint, part: PartSpec, quantized: frozenset[str]
) -> Any:
    """Return transformers' configuration for one part, which quantizes the weights that it would in the unsplit model.

    By itself transformers leaves out the last module of a model, but a part ends elsewhere.

    Args:
        quantization: transformers' configuration, from `quantization_config`.
        model: the part.
        blueprint: the unsplit model's structure.
        part: which part it is.
        quantized: the unsplit model's parameters that are quantized, from `quantized_names`.
    """
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = {path: blueprint.global_name(f"{path}.weight", part) for path in linear}
    chosen = copy.deepcopy(quantization)
    for setting in _SKIPPED:
        if hasattr(chosen, setting):
            setattr(chosen, setting, [path for path, name in names.items() if name not in quantized])
    return chosen
