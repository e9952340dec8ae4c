"""Adapters that parts of a model cannot have."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splitlearn.adapters.layers import adapted_modules, adapts_one_parameter, copied_modules, ends_with_any
from splitlearn.adapters.settings import AdapterSettings
from splitlearn.model import SplitModel
from splitlearn.naming import named

# Exceptions that PEFT raises for settings that do not fit a model, or that need a package which is not installed.
PEFT_ERRORS = (ValueError, TypeError, AttributeError, IndexError, KeyError, ImportError)


def refuse_tied(part: SplitModel) -> None:
    """Refuse adapters at a tensor that two parts hold.

    Args:
        part: the part, with adapters.

    Raises:
        ValueError: an adapted or copied module is tied to another part's.
    """
    ties = {*part.blueprint.ties, *part.blueprint.ties.values()}
    for setting, paths in {"target_modules": adapted_modules(part), "modules_to_save": copied_modules(part)}.items():
        for path in paths:
            if f"{path}.weight" in ties:
                raise ValueError(
                    f"{path} is tied to another part's weights, so an adapter there would belong to both; "
                    f"leave it out of {named(f'settings.{setting}')}"
                )


def refuse_unknown_names(parts: Sequence[SplitModel], settings: AdapterSettings) -> None:
    """Refuse a list of modules of which some are in no part: PEFT would leave them out silently.

    Args:
        parts: all parts of the model, with adapters.
        settings: the adapters' settings.

    Raises:
        ValueError: no part has a module of that name.
    """
    paths = {path for part in parts for path in adapted_modules(part)}
    for name in (part.spec.name for part in parts if settings.adapts(part.spec.name)):
        names = settings.config_of(name).target_modules
        if isinstance(names, str) or not paths:
            continue
        for module in names or ():
            if not any(ends_with_any(path, [module]) for path in paths):
                raise ValueError(f"the target_modules of peft for {name} name {module!r}, which no part with adapters has")


def check_layers_run(parts: Sequence[SplitModel]) -> None:
    """Run one layer of each kind with adapters: some cannot stand beside weights of every form, such as quantized ones.

    Args:
        parts: parts of one model, with adapters.

    Raises:
        ValueError: a layer fails.
    """
    tried: set[type] = set()
    for part in parts:
        for path, layer in adapted_modules(part).items():
            if type(layer) in tried or not hasattr(layer, "in_features") or adapts_one_parameter(layer):
                continue
            tried.add(type(layer))
            try:
                with torch.no_grad():
                    layer(torch.zeros(1, layer.in_features, device=part.device, dtype=part.blueprint.dtype))
            except (RuntimeError, *PEFT_ERRORS) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"these adapters cannot stand beside {path} as it is stored ({reason})") from error
