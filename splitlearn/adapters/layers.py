"""PEFT's layers in the parts of a model: their names in the unsplit model, their tensors, and taking them out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from splitlearn.model import SplitModel

# PEFT's name for an adapter that was given none.
ADAPTER_NAME = "default"
# Attribute of PEFT's layers that holds the module beside which an adapter stands.
_BASE_LAYER = ".base_layer"


def whole_name(path: str, part: SplitModel) -> str:
    """Return the path that a module of a part has in the unsplit model.

    Args:
        path: the module's dotted path in the part.
        part: the part.
    """
    if path == part.blueprint.anatomy.layers_path:
        return path
    return part.blueprint.global_name(f"{path}.", part.spec).removesuffix(".")


def ends_with_any(path: str, names: Sequence[str]) -> bool:
    """Whether a path is one of ``names``, or ends with one after a dot.

    Args:
        path: dotted path of a module or parameter.
        names: names, or ends of paths.
    """
    return any(path == name or path.endswith(f".{name}") for name in names)


def adapted_modules(part: SplitModel) -> dict[str, Any]:
    """Return PEFT's layers of a part, by the path that their module has in the unsplit model.

    A layer that stands beside one parameter of a module, such as the weights of all experts, has that parameter's name.

    Args:
        part: the part.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    by_whole_name = {}
    layers: dict[str, Any] = {path: module for path, module in part.model.named_modules() if isinstance(module, BaseTunerLayer)}
    for path, layer in layers.items():
        name = whole_name(path.replace(_BASE_LAYER, ""), part)
        by_whole_name[f"{name}.{layer.parameter_name}" if adapts_one_parameter(layer) else name] = layer
    return by_whole_name


def copied_modules(part: SplitModel) -> list[str]:
    """Return the paths in the unsplit model of the modules of which PEFT trains a copy (``modules_to_save``).

    Args:
        part: the part.
    """
    from peft.utils.other import AuxiliaryTrainingWrapper

    modules = part.model.named_modules()
    return [whole_name(path, part) for path, module in modules if isinstance(module, AuxiliaryTrainingWrapper)]


def adapts_one_parameter(layer: nn.Module) -> bool:
    """Whether a layer of PEFT stands beside one parameter of its module and not beside the module.

    Args:
        layer: one of `adapted_modules`.
    """
    from peft.tuners.lora.layer import ParamWrapper

    return isinstance(layer, ParamWrapper)


def adapter_tensors(part: SplitModel) -> dict[str, torch.Tensor]:
    """Return the tensors of a part's adapters, under the names that PEFT gives them in the unsplit model.

    Args:
        part: the part.
    """
    from peft import get_peft_model_state_dict

    if not adapted_modules(part):
        return {}
    tensors = get_peft_model_state_dict(part.model)
    return {part.blueprint.global_name(name, part.spec): tensor for name, tensor in tensors.items()}


def load_adapter_tensors(part: SplitModel, tensors: dict[str, torch.Tensor]) -> None:
    """Fill a part's adapters with tensors.

    Args:
        part: the part, with adapters.
        tensors: by the names of `adapter_tensors`; those of other parts are passed over.

    Raises:
        ValueError: a tensor of the part is missing or has another shape.
    """
    from peft import set_peft_model_state_dict

    own = adapter_tensors(part)
    for name, place in own.items():
        if name not in tensors or tensors[name].shape != place.shape:
            fault = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise ValueError(f"the adapter tensor {name} {fault}; {part.spec.name} needs shape {tuple(place.shape)}")
    set_peft_model_state_dict(part.model, {part.blueprint.local_name(name, part.spec): tensors[name] for name in own})


def merge_adapters(part: SplitModel) -> None:
    """Merge a part's adapters into its weights, and put its original modules back into place.

    Args:
        part: the part; it is changed in place.

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
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            # PEFT has no exception of its own for adapters that cannot be merged.
            reason = " ".join(str(error).split()) or type(module).__name__
            raise ValueError(
                f"these adapters cannot be merged into the weights ({reason}); export with adapters=keep"
            ) from error
        setattr(part.model.get_submodule(owner), name, plain)
