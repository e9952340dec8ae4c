"""Which model a checkpoint of a run belongs to: only what was trained is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from splitlearn.adapters import AdapterSettings
from splitlearn.model import ComposedCausalLM, compare_configs
from splitlearn.model.digest import digest

_WEIGHTS = "frozen_weights"


def describe_base(composed: ComposedCausalLM, adapters: AdapterSettings, quantization: Any) -> dict[str, Any]:
    """Return, as plain values, which model the parts are of and what stands beside its weights.

    Args:
        composed: the model, with what is trained marked.
        adapters: which adapters it has.
        quantization: plain settings of how frozen weights are quantized.
    """
    blueprint = composed.bottom.blueprint
    origin = blueprint.origin
    commit = origin.commit if origin else None
    frozen = [(name, each) for name, each in composed.named_parameters() if not each.requires_grad]
    return {
        "model": origin.model if origin and commit else None,
        "commit": commit,
        "dtype": str(blueprint.dtype).removeprefix("torch."),
        "quantization": quantization,
        "adapters": asdict(adapters),
        "config": json.loads(blueprint.config.to_json_string(use_diff=False)),
        _WEIGHTS: digest(frozen, with_quantized=False),
    }


def compare_bases(saved: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Return how a checkpoint's base model differs from this run's; what an older checkpoint does not say is passed over."""
    known = [name for name in ("model", "commit", "dtype") if saved.get(name) is not None and base[name] is not None]
    # None says that nothing was quantized.
    known += [name for name in ("quantization",) if name in saved]
    differences = [f"{name} is {saved[name]} and {base[name]}" for name in known if saved[name] != base[name]]
    for name, setting in dict(saved.get("adapters", {})).items():
        if setting != base["adapters"][name]:
            differences.append(f"peft.{name} is {setting} and {base['adapters'][name]}")
    differences += compare_configs(saved["config"], base["config"]) if "config" in saved else []
    if not differences and saved.get(_WEIGHTS, base[_WEIGHTS]) != base[_WEIGHTS]:
        differences.append("the configurations are equal, but the weights that are not trained have other values")
    return differences
