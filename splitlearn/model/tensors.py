"""Putting tensors into a model as its parameters and buffers, without copying them."""

from __future__ import annotations

import torch
from torch import nn


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
