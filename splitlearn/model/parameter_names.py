"""Parameters of some of a model's parts under the unsplit model's names.

The names depend neither on the cut nor on who holds a part. Layers have the unsplit model's numbers; tensors of an adapter keep
PEFT's path below its layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from splitlearn.checkpoint import CheckpointError
from splitlearn.model.split_model import SplitModel


def named_parameters(parts: Iterable[SplitModel]) -> dict[str, nn.Parameter]:
    """Return the parameters of parts by name, a tied one under each of its names.

    Args:
        parts: some or all parts of one model.
    """
    return {
        part.blueprint.global_name(name, part.spec): parameter
        for part in parts
        for name, parameter in part.model.named_parameters(remove_duplicate=False)
    }


def stored_names(parts: Iterable[SplitModel]) -> dict[nn.Parameter, str]:
    """Return the name under which a checkpoint holds each parameter: for both ends of a tie the name of its owner.

    Args:
        parts: some or all parts of one model.
    """
    chosen = list(parts)
    owners = {name: owner for part in chosen for name, owner in part.blueprint.ties.items()}
    names: dict[nn.Parameter, str] = {}
    for name, parameter in named_parameters(chosen).items():
        names.setdefault(parameter, owners.get(name, name))
    return names


def trained_parameters(parts: Iterable[SplitModel]) -> dict[str, nn.Parameter]:
    """Return the parameters of parts that require gradients under their `stored_names`.

    Where the ends of a tie are two tensors, as on two devices, it is the owner's.

    Args:
        parts: some or all parts of one model.
    """
    chosen = list(parts)
    named = named_parameters(chosen)
    return {name: named.get(name, own) for own, name in stored_names(chosen).items() if own.requires_grad}


def fill_parameters(parts: Iterable[SplitModel], tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Copy tensors into the parameters of their names, and into all ends of a tie.

    Args:
        parts: some or all parts of one model.
        tensors: by `stored_names`; those of other parts are passed over.

    Returns:
        The names of the tensors that were copied.

    Raises:
        CheckpointError: a tensor has another shape than its parameter.
    """
    names = {parameter: name for parameter, name in stored_names(parts).items() if name in tensors}
    for parameter, name in names.items():
        if tensors[name].shape != parameter.shape:
            shapes = tuple(tensors[name].shape), tuple(parameter.shape)
            raise CheckpointError(f"the tensor {name} has shape {shapes[0]}, but the model needs {shapes[1]}")
    with torch.no_grad():
        for parameter, name in names.items():
            parameter.copy_(tensors[name])
    return set(names.values())
