"""Putting adapters into the parts of a model, and knowing their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from splitlearn.adapters.settings import AdapterSettings
from splitlearn.model import SplitModel
from splitlearn.model.passage import Neutral

_ALL_LINEAR = "all-linear"
# Settings of PEFT that name modules by patterns, and layers by numbers.
_PATTERNS = ("rank_pattern", "alpha_pattern")
_LAYER_CHOICES = ("layers_to_transform", "layers_pattern")
_TARGETS = ("target_modules", "target_parameters")
_HALF = (torch.float16, torch.bfloat16)
# Where PEFT puts the module that an adapter stands beside.
_BASE_LAYER = ".base_layer"
# What PEFT raises for settings that do not fit a model.
_PEFT_ERRORS = (ValueError, TypeError, AttributeError, IndexError, KeyError)


def add_adapters(parts: Sequence[SplitModel], settings: AdapterSettings) -> dict[str, list[nn.Parameter]]:
    """Put adapters beside the weights of each part that is to have them; they alone require gradients there.

    Adapters beside half-precision weights are kept in float32, as PEFT does: small steps would vanish otherwise.

    Args:
        parts: parts of one model.
        settings: which adapters.

    Returns:
        The adapters' parameters, by the name of their part.

    Raises:
        ValueError: a part has none of the modules that the settings name, or a module is tied to another part's.
    """
    from peft import inject_adapter_in_model

    added = {}
    for part in parts:
        if not settings.adapts(part.part.name):
            continue
        if part.num_parameters == 0:
            raise ValueError(f"{part.part.name} holds no weights to put adapters beside; set peft.parts.{part.part.name}=false")
        config = settings.config_of(part.part.name)
        try:
            _speak_of_this_part(config, part)
            targets = [getattr(config, target, None) for target in _TARGETS]
            if any(each is not None for each in targets) and not any(targets):
                continue
            inject_adapter_in_model(config, part.model)
        except _PEFT_ERRORS as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"adapters cannot be put into {part.part.name}: {reason}") from error
        _refuse_tied(part)
        for parameter in part.model.parameters():
            if parameter.requires_grad and parameter.dtype in _HALF:
                parameter.data = parameter.data.float()
        added[part.part.name] = [each for each in part.model.parameters() if each.requires_grad]
        if not added[part.part.name]:
            raise ValueError(f"the settings of peft leave nothing to be trained in {part.part.name}; is inference_mode true?")
    _refuse_unknown_names(parts, settings)
    if settings.method is not None and not added:
        raise ValueError(
            f"peft.settings.target_modules is {settings.settings.get('target_modules')!r}, which no part has; "
            "name modules of the model, or take all-linear"
        )
    return added


def _speak_of_this_part(config: Any, part: SplitModel) -> None:
    """Turn what PEFT's configuration says of layers, which means the unsplit model's, into this part's own numbering."""
    from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
    from peft.utils.other import get_pattern_key

    modules = {path: module for path, module in part.model.named_modules() if path and not isinstance(module, Neutral)}
    for pattern in (each for each in _PATTERNS if getattr(config, each, None)):
        given = getattr(config, pattern)
        keys = {path: get_pattern_key(list(given), _whole(path, part)) for path in modules}
        setattr(config, pattern, {f"^{re.escape(path)}$": given[key] for path, key in keys.items() if key in given})
    if getattr(config, "target_parameters", None):
        names = [f"{path}.{name}" for path, module in modules.items() for name, _ in module.named_parameters(recurse=False)]
        config.target_parameters = [name for name in names if _ends_with_any(_whole(name, part), config.target_parameters)]
    if getattr(config, "modules_to_save", None):
        # PEFT takes names here as endings of any kind.
        saved = [path for path in modules if _whole(path, part).endswith(tuple(config.modules_to_save))]
        config.modules_to_save = saved or None
    if getattr(config, "target_modules", None) is None:
        # PEFT then takes what is usual for the architecture.
        return
    chosen = {path: check_target_module_exists(config, _whole(path, part)) for path in modules}
    if getattr(config, "exclude_modules", None):
        config.exclude_modules = {path for path, is_chosen in chosen.items() if isinstance(is_chosen, _ExcludedModule)} or None
    if config.target_modules != _ALL_LINEAR:
        config.target_modules = {path for path, is_chosen in chosen.items() if is_chosen}
        for setting in (each for each in _LAYER_CHOICES if hasattr(config, each)):
            setattr(config, setting, None)


def _refuse_unknown_names(parts: Sequence[SplitModel], settings: AdapterSettings) -> None:
    """Refuse a list of modules of which some are in no part: they would be left out without a word."""
    given = {
        name: settings.config_of(name).target_modules for name in (part.part.name for part in parts) if settings.adapts(name)
    }
    paths = {path for part in parts for path in adapted_modules(part)}
    for name, names in given.items():
        unknown = [] if names is None or isinstance(names, str) else [each for each in names if not _ends(paths, each)]
        if unknown and paths:
            raise ValueError(f"the target_modules of peft for {name} name {unknown[0]!r}, which no part with adapters has")


def _ends(paths: Collection[str], name: str) -> bool:
    return any(_ends_with_any(path, [name]) for path in paths)


def _ends_with_any(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _whole(path: str, part: SplitModel) -> str:
    """Return the path that a module of a part has in the unsplit model."""
    if path == part.blueprint.anatomy.layers_path:
        return path
    return part.blueprint.global_name(f"{path}.", part.part).removesuffix(".")


def adapted_modules(part: SplitModel) -> dict[str, Any]:
    """Return PEFT's layers of a part, by the path that their module has in the unsplit model.

    A layer that stands beside one parameter of a module, such as the weights of all experts, has that parameter's name.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    layers: dict[str, Any] = {path: each for path, each in part.model.named_modules() if isinstance(each, BaseTunerLayer)}
    for path, layer in layers.items():
        name = _whole(path.replace(_BASE_LAYER, ""), part)
        found[f"{name}.{layer.parameter_name}" if adapts_one_parameter(layer) else name] = layer
    return found


def adapts_one_parameter(layer: nn.Module) -> bool:
    """Whether a layer of PEFT stands beside one parameter of its module and not beside the module."""
    from peft.tuners.lora.layer import ParamWrapper

    return isinstance(layer, ParamWrapper)


def merge_adapters(part: SplitModel) -> None:
    """Put a part's adapters into its weights, and the modules back into place that it had without them.

    Raises:
        ValueError: adapters of this kind cannot be merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for path, module in list(part.model.named_modules()):
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) or _BASE_LAYER in f"{path}.":
            continue
        owner, _, name = path.rpartition(".")
        try:
            if hasattr(module, "unload_and_optionally_merge_module"):
                plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            else:
                # Weights are mapped privately: merging writes to copies of the pages, never to the checkpoint.
                module.merge()
                plain = module.get_base_layer()
        except (NotImplementedError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(module).__name__
            raise ValueError(
                f"these adapters cannot be merged into the weights ({reason}); export with adapters=keep"
            ) from error
        setattr(part.model.get_submodule(owner), name, plain)


def adapter_tensors(part: SplitModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a part's adapters, under the names that PEFT gives them in the unsplit model."""
    from peft import get_peft_model_state_dict

    if not adapted_modules(part):
        return {}
    return {part.blueprint.global_name(name, part.part): each for name, each in get_peft_model_state_dict(part.model).items()}


def load_adapter_tensors(part: SplitModel, tensors: dict[str, torch.Tensor]) -> None:
    """Fill a part's adapters with tensors that have the names of `adapter_tensors`; those of other parts are passed over.

    Raises:
        ValueError: a tensor of the part is missing or has another shape.
    """
    from peft import set_peft_model_state_dict

    wanted = adapter_tensors(part)
    for name, each in wanted.items():
        if name not in tensors or tensors[name].shape != each.shape:
            found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise ValueError(f"the adapter tensor {name} {found}; {part.part.name} needs shape {tuple(each.shape)}")
    set_peft_model_state_dict(part.model, {part.blueprint.local_name(name, part.part): tensors[name] for name in wanted})


def _refuse_tied(part: SplitModel) -> None:
    from peft.utils.other import AuxiliaryTrainingWrapper

    ties = {*part.blueprint.ties, *part.blueprint.ties.values()}
    copied = [_whole(path, part) for path, each in part.model.named_modules() if isinstance(each, AuxiliaryTrainingWrapper)]
    for setting, paths in {"target_modules": adapted_modules(part), "modules_to_save": copied}.items():
        for path in paths:
            if f"{path}.weight" in ties:
                raise ValueError(
                    f"{path} is tied to another part's weights, so what is trained there would belong to both; "
                    f"leave it out of peft.settings.{setting}"
                )
