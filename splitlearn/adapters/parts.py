"""Putting adapters into the parts of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from splitlearn.adapters.layers import ADAPTER_NAME, ends_with_any, whole_name
from splitlearn.adapters.refusals import PEFT_ERRORS, refuse_tied, refuse_unknown_names
from splitlearn.adapters.settings import AdapterSettings
from splitlearn.cut import PART_NAMES
from splitlearn.model import Neutral, SplitModel
from splitlearn.naming import named
from splitlearn.randomness import NamedGenerators

_ALL_LINEAR = "all-linear"
# Settings of PEFT that name modules by patterns, and layers by numbers.
_PATTERNS = ("rank_pattern", "alpha_pattern")
_LAYER_CHOICES = ("layers_to_transform", "layers_pattern")
_TARGETS = ("target_modules", "target_parameters")


def add_adapters(
    parts: Sequence[SplitModel], settings: AdapterSettings, generators: NamedGenerators | None = None
) -> dict[str, list[nn.Parameter]]:
    """Put adapters beside the weights of the parts that the settings name; they alone require gradients there.

    Adapters beside half-precision weights are kept in float32, as PEFT does: small steps would round to nothing otherwise.

    Args:
        parts: parts of one model.
        settings: the adapters, and the parts that get them.
        generators: the generator of each part's initial values, under the part's name; None takes torch's default ones.

    Returns:
        The adapters' parameters, by the name of their part.

    Raises:
        ValueError: a part has none of the modules that the settings name, or a module is tied to another part's.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    added = {}
    for part in parts:
        if not settings.adapts(part.spec.name):
            continue
        if part.num_parameters == 0:
            own = named(f"parts.{part.spec.name}")
            raise ValueError(f"{part.spec.name} holds no weights to put adapters beside; set {own}=false")
        config = settings.config_of(part.spec.name)
        try:
            _speak_of_this_part(config, part)
            targets = [getattr(config, target, None) for target in _TARGETS]
            if any(target is not None for target in targets) and not any(targets):
                continue
            with generators.drawing(part.spec.name, part.device) if generators else nullcontext():
                inject_adapter_in_model(config, part.model)
        except PEFT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"adapters cannot be put into {part.spec.name}: {reason}") from error
        refuse_tied(part)
        cast_adapter_dtype(part.model, ADAPTER_NAME)
        added[part.spec.name] = [parameter for parameter in part.model.parameters() if parameter.requires_grad]
        if not added[part.spec.name]:
            raise ValueError(f"the settings of peft leave nothing to be trained in {part.spec.name}; is inference_mode true?")
    if len(parts) < len(PART_NAMES):
        # Modules that no part here has may be in the absent parts.
        return added
    refuse_unknown_names(parts, settings)
    if settings.method is not None and not added:
        raise ValueError(
            f"{named('settings.target_modules')} is {settings.settings.get('target_modules')!r}, which no part has; "
            "name modules of the model, or take all-linear"
        )
    return added


def _speak_of_this_part(config: Any, part: SplitModel) -> None:
    """Translate a PEFT configuration, which names the unsplit model's modules and layers, into this part's own numbering."""
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
    from peft.utils.other import get_pattern_key

    modules = {path: module for path, module in part.model.named_modules() if path and not isinstance(module, Neutral)}
    for pattern in (name for name in _PATTERNS if getattr(config, name, None)):
        given = getattr(config, pattern)
        keys = {path: get_pattern_key(list(given), whole_name(path, part)) for path in modules}
        setattr(config, pattern, {f"^{re.escape(path)}$": given[key] for path, key in keys.items() if key in given})
    if getattr(config, "target_parameters", None):
        names = [f"{path}.{name}" for path, module in modules.items() for name, _ in module.named_parameters(recurse=False)]
        config.target_parameters = [name for name in names if ends_with_any(whole_name(name, part), config.target_parameters)]
    if getattr(config, "modules_to_save", None):
        # PEFT compares these names with the ends of paths, dot or not.
        saved = [path for path in modules if whole_name(path, part).endswith(tuple(config.modules_to_save))]
        config.modules_to_save = saved or None
    if getattr(config, "target_modules", None) is None:
        # PEFT then takes its default modules for the architecture.
        return
    chosen = {path: check_target_module_exists(config, whole_name(path, part)) for path in modules}
    if getattr(config, "exclude_modules", None):
        config.exclude_modules = {path for path, is_chosen in chosen.items() if isinstance(is_chosen, _ExcludedModule)} or None
    if config.target_modules != _ALL_LINEAR:
        config.target_modules = {path for path, is_chosen in chosen.items() if is_chosen}
        for setting in (name for name in _LAYER_CHOICES if hasattr(config, name)):
            setattr(config, setting, None)
