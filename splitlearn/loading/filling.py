"""Giving a part that was cut out on the meta device its tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint, put_tensor


def fill(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill a model whose checkpoint needs no conversion, as transformers' loader would, without its work for all other cases.

    Args:
        model: a model on the meta device; it comes out in evaluation mode.
        tensors: its parameters and persistent buffers by the model's names; they are shared, not copied.
    """
    for name, tensor in tensors.items():
        put_tensor(model, name, tensor)
    for tensor in model.state_dict(keep_vars=True).values():
        # initialize_weights skips tensors with this mark.
        tensor._is_hf_initialized = True
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            put_tensor(model, name, torch.empty_like(buffer, device="cpu"))
    # initialize_weights visits every module, as in transformers' loader: it computes the buffers that no checkpoint holds, and
    # a few models change loaded tensors too (Youtu clears the padding row of its embedding).
    model.initialize_weights()
    model.eval()


def tie_within(blueprint: Blueprint, part: PartSpec, model: PreTrainedModel) -> None:
    """Make a parameter that has two names in one part one parameter; ties between parts are made by `tie_parts`.

    Args:
        blueprint: the unsplit model's structure.
        part: the part.
        model: the part, filled; it is changed in place.
    """
    for borrowed, owned in blueprint.ties.items():
        if blueprint.belongs_to(borrowed, part) and blueprint.belongs_to(owned, part):
            path, _, leaf = blueprint.local_name(borrowed, part).rpartition(".")
            setattr(model.get_submodule(path), leaf, model.get_parameter(blueprint.local_name(owned, part)))


@torch.no_grad()
def change_as_owners_do(blueprint: Blueprint, part: PartSpec, model: PreTrainedModel, owners: Mapping[str, str]) -> None:
    """Apply transformers' change of a loaded tensor to a borrowed or copied one too, if its owner is in another part.

    Args:
        blueprint: the unsplit model's structure.
        part: the part.
        model: the part, filled.
        owners: from each borrowed or copied tensor to the tensor that the unsplit model keeps.
    """
    for borrowed, owned in owners.items():
        if not blueprint.belongs_to(borrowed, part) or blueprint.belongs_to(owned, part):
            continue
        parameter = model.get_parameter(blueprint.local_name(borrowed, part))
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers then leaves it as it is
        path, _, leaf = owned.rpartition(".")
        # A shallow copy of the owning module, with the borrowed tensor in the owner's place.
        owner = copy.copy(blueprint.meta_model.get_submodule(path))
        owner._parameters = {**owner._parameters, leaf: parameter}
        blueprint.meta_model._init_weights(owner)
