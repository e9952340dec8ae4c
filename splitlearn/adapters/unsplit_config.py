"""PEFT's configuration of the adapters of all parts, as one adapter for the unsplit model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from splitlearn.adapters.layers import ADAPTER_NAME, adapted_modules, adapts_one_parameter, copied_modules
from splitlearn.adapters.settings import AdapterSettings
from splitlearn.model import SplitModel
from splitlearn.naming import named

# Settings that PEFT takes for single layers, with the name of the pattern that holds them.
_PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern", "alpha": "alpha_pattern"}
# Settings that the list of all adapted modules replaces.
_CHOICES = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern")


def unsplit_config(parts: Sequence[SplitModel], settings: AdapterSettings) -> Any:
    """Return the configuration of one adapter for the unsplit model.

    Args:
        parts: the parts of the model, with their adapters.
        settings: the settings that these adapters were made with.

    Returns:
        PEFT's configuration, with modules by their full names, and patterns where layers differ.

    Raises:
        ValueError: parts differ in a setting that one PEFT adapter cannot have twice.
    """
    configs = {part.spec.name: settings.config_of(part.spec.name) for part in parts if settings.adapts(part.spec.name)}
    merged = next(iter(configs.values()))
    _refuse_differences(merged, configs)
    layers = {path: layer for part in parts for path, layer in adapted_modules(part).items()}
    _set_patterns(merged, layers)
    for setting in (name for name in _CHOICES if hasattr(merged, name)):
        setattr(merged, setting, None)
    merged.target_modules = {path for path, layer in layers.items() if not adapts_one_parameter(layer)}
    if any(map(adapts_one_parameter, layers.values())):
        merged.target_parameters = [path for path, layer in layers.items() if adapts_one_parameter(layer)]
    if getattr(merged, "modules_to_save", None):
        # Parts without adapters have no copies.
        merged.modules_to_save = [path for part in parts for path in copied_modules(part)]
    if getattr(merged, "feedforward_modules", None):
        merged.feedforward_modules = {path for path, layer in layers.items() if layer.is_feedforward}
    merged.inference_mode = True
    origin = parts[0].blueprint.origin
    if origin is not None:
        merged.base_model_name_or_path, merged.revision = origin.model, origin.commit
    return merged


def _refuse_differences(merged: Any, configs: Mapping[str, Any]) -> None:
    for setting, first in dict(vars(merged)).items():
        values = {name: getattr(config, setting) for name, config in configs.items()}
        can_differ = setting in _CHOICES or (setting in _PATTERNS and hasattr(merged, _PATTERNS[setting]))
        if not can_differ and any(value != first for value in values.values()):
            raise ValueError(
                f"{named('parts')} gives {setting} the values {values}, but one adapter for the whole model has one value"
            )


def _set_patterns(merged: Any, layers: Mapping[str, Any]) -> None:
    for setting, pattern in _PATTERNS.items():
        common = getattr(merged, setting, None)
        values = {path: getattr(layer, setting, {}).get(ADAPTER_NAME, common) for path, layer in layers.items()}
        # Some methods have an attribute of that name which is no pattern.
        if isinstance(getattr(merged, pattern, None), dict) and set(values.values()) != {common}:
            # PEFT reads the keys as regular expressions on the end of a module's path.
            own = {f"^{re.escape(path)}$": value for path, value in values.items() if value != common}
            setattr(merged, pattern, own)
