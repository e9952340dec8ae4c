"""Putting tensors into a model as its parameters and buffers, without copying them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PartSpec
from splitlearn.model.blueprint import Blueprint


def put_tensor(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make a tensor a parameter or buffer of a model; it is shared, not copied.

    Args:
        model: the model; it is changed in place.
        name: dotted name of the parameter or buffer, which exists, perhaps on the meta device.
        tensor: its new values; a parameter of floating-point numbers requires gradients.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    else:
        module._buffers[leaf] = tensor


def share_parameters(model: nn.Module) -> None:
    """Make parameters that lie in the same memory one parameter, as they are in a model that ties them.

    Args:
        model: the model; it is changed in place.
    """
    shared: dict[object, nn.Parameter] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and parameter.numel() and not parameter.is_meta:
                place = (parameter.data_ptr(), parameter.dtype, parameter.shape, parameter.stride())
                module._parameters[leaf] = shared.setdefault(place, parameter)


def fill_from_whole(
    model: nn.Module, blueprint: Blueprint, part: PartSpec, tensors: Mapping[str, torch.Tensor], source: str
) -> None:
    """Give a part tensors that have the unsplit model's names and layouts; they are shared, not copied.

    Args:
        model: the part on the meta device; it is filled in place.
        blueprint: the unsplit model's structure.
        part: which part it is.
        tensors: parameters and all buffers by the unsplit model's names; those of other parts are passed over.
        source: where the tensors come from, for messages.

    Raises:
        CheckpointError: a tensor of the part is missing or has another shape.
    """
    for name, place in [*model.named_parameters(), *model.named_buffers()]:
        whole_name = blueprint.global_name(name, part)
        # Earlier versions saved a parameter with two names under one of them.
        tensor = next((tensors[alias] for alias in (whole_name, *blueprint.aliases(whole_name)) if alias in tensors), None)
        if tensor is None:
            raise CheckpointError(f"{source} lacks the tensor {whole_name}")
        if tensor.shape != place.shape:
            raise CheckpointError(f"{source}: {name} has shape {tuple(tensor.shape)}, but the model needs {tuple(place.shape)}")
        put_tensor(model, name, tensor)
    share_parameters(model)
