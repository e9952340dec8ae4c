"""The content of a run's checkpoint, under the unsplit model's names: trained tensors, optimizer state and gradients.

Every function takes some or all parts of a model, so whoever holds one part writes and reads just its share. No tensor is
copied for writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitlearn.checkpoint import CheckpointError, name_some
from splitlearn.model import SplitModel, fill_parameters, named_parameters, stored_names, trained_parameters

LAYOUT_KEY = "layout_version"
# Version 1 did not say so; it had the module's own names, and optimizer state by number. Version 2 had no generators.
LAYOUT_VERSION = 3
# The state of `NamedGenerators`.
GENERATORS_KEY = "generators"
# What codecs remember from call to call, by cut and payload; only where one does.
CODECS_KEY = "codecs"


def check_layout(content: Mapping[str, Any], where: str = "the checkpoint") -> None:
    """Refuse a checkpoint of another layout than this release reads.

    Args:
        content: its content.
        where: its file, for the message.

    Raises:
        CheckpointError: its layout is of another version, or no run of splitlearn wrote it.
    """
    if LAYOUT_KEY not in content and not is_of_this_library(content):
        raise CheckpointError(
            f"{where} is no checkpoint of a run of splitlearn; those are in the folder checkpoints of a run's own"
        )
    version = content.get(LAYOUT_KEY, 1)
    if not isinstance(version, int) or version != LAYOUT_VERSION:
        raise CheckpointError(
            f"{where} has layout {version}, which another release of splitlearn wrote, and this one reads "
            f"layout {LAYOUT_VERSION}; train again, or export it with the release that wrote it"
        )


def is_of_this_library(content: Mapping[str, Any]) -> bool:
    """Whether a run of this library wrote a checkpoint, whatever its layout."""
    settings = content.get("hyper_parameters")
    return isinstance(settings, Mapping) and "split_point_1" in settings


def trained_tensors(parts: Sequence[SplitModel]) -> dict[str, torch.Tensor]:
    """Return the trained tensors of parts by name; they share memory with the parts."""
    return {name: parameter.detach() for name, parameter in trained_parameters(parts).items()}


def load_trained_tensors(parts: Sequence[SplitModel], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy trained tensors into parts; those of other parts are passed over.

    Raises:
        CheckpointError: a trained tensor of the parts is missing or has another shape.
    """
    missing = trained_parameters(parts).keys() - tensors.keys()
    if missing:
        raise CheckpointError(f"the checkpoint lacks trained tensors: {name_some(list(missing))}")
    fill_parameters(parts, tensors)


def under_own_names(
    module: nn.Module, parts: Sequence[SplitModel], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors under the names that ``module.load_state_dict`` takes.

    Args:
        module: it holds the parts.
        parts: the parts.
        tensors: trained tensors by the unsplit model's names.
    """
    names = {parameter: name for parameter, name in stored_names(parts).items() if name in tensors}
    for parameter, name in names.items():
        if parameter.shape != tensors[name].shape:
            shapes = tuple(tensors[name].shape), tuple(parameter.shape)
            raise CheckpointError(f"the tensor {name} has shape {shapes[0]}, but the model needs {shapes[1]}")
    own = module.named_parameters(remove_duplicate=False)
    return {path: tensors[names[parameter]] for path, parameter in own if parameter in names}


def gradients(parts: Sequence[SplitModel]) -> dict[str, torch.Tensor]:
    """Return the gradients of parts by name; both ends of a tie that are two tensors have one each until the step."""
    names: dict[nn.Parameter, str] = {}
    for name, parameter in named_parameters(parts).items():
        if parameter.grad is not None:
            names.setdefault(parameter, name)
    return {name: parameter.grad for parameter, name in names.items() if parameter.grad is not None}


def load_gradients(parts: Sequence[SplitModel], tensors: Mapping[str, torch.Tensor]) -> None:
    """Set the gradients of parts to what `gradients` returned; those of other parts are passed over.

    Two ends of a tie that have become one tensor get the sum.
    """
    for parameter in named_parameters(parts).values():
        parameter.grad = None
    for name, parameter in named_parameters(parts).items():
        if name in tensors:
            gradient = tensors[name].to(parameter.device)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def speak_names(
    optimizer: torch.optim.Optimizer, parts: Sequence[SplitModel], further: Mapping[nn.Parameter, str] | None = None
) -> None:
    """Have ``optimizer.state_dict()`` and ``load_state_dict`` name parameters as checkpoints do, where torch numbers them.

    The rest is as torch has it: ``state`` by parameter, and a list ``param_groups`` of hyperparameters with the group's
    ``params``. Loading matches groups by ``name`` and parameters by theirs, so order does not matter, and passes over groups of
    other parts.

    Args:
        optimizer: it steps trained parameters of ``parts``; each of its groups has a ``name``.
        parts: the parts.
        further: names of parameters of other parts that it steps.
    """
    names = {**stored_names(parts), **(further or {})}
    optimizer.register_state_dict_post_hook(lambda optimizer, state: _named(optimizer, state, names))
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, state: _in_order(optimizer, state, names))


def _named(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], names: Mapping[nn.Parameter, str]) -> dict[str, Any]:
    """Return optimizer state with names in the place of torch's numbers."""
    numbered: dict[Any, str] = {}
    groups = []
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        own = [names[parameter] for parameter in group["params"]]
        numbered.update(zip(saved["params"], own, strict=True))
        groups.append({**saved, "params": own})
    return {**state, "state": {numbered[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def _in_order(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], names: Mapping[nn.Parameter, str]) -> dict[str, Any]:
    """Return named optimizer state with the groups and parameters of ``optimizer`` in its order, as torch wants them.

    Raises:
        CheckpointError: a group is missing, or has other parameters.
    """
    saved = {group.get("name"): group for group in state["param_groups"]}
    groups, own = [], []
    for group in optimizer.param_groups:
        if group["name"] not in saved:
            raise CheckpointError(f"the optimizer state lacks the group {group['name']!r}; it has {', '.join(map(str, saved))}")
        wanted, present = [names[parameter] for parameter in group["params"]], saved[group["name"]]["params"]
        differing = set(wanted).symmetric_difference(present)
        if differing:
            raise CheckpointError(
                f"the group {group['name']!r} of the optimizer state has other parameters than this run's: "
                f"{name_some([str(name) for name in differing])}"
            )
        groups.append({**saved[group["name"]], "params": wanted})
        own += wanted
    return {**state, "state": {name: state["state"][name] for name in own if name in state["state"]}, "param_groups": groups}
