"""Giving a part, which was cut out on the meta device, its tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint, put_tensor


def fill(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill a model whose checkpoint needs no conversion: what transformers' loader does, without its work for all other cases.

    Args:
        model: a model on the meta device; it comes out in evaluation mode.
        tensors: its parameters and persistent buffers by the model's names; they are shared, not copied.
    """
    for name, tensor in tensors.items():
        put_tensor(model, name, tensor)
    for each in model.state_dict(keep_vars=True).values():
        # So transformers knows what it is not to initialise.
        each._is_hf_initialized = True
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            put_tensor(model, name, torch.empty_like(buffer, device="cpu"))
    # Every module is visited, as in transformers' loader: most leave alone what was loaded, a few do not (Youtu clears the
    # padding row of its embedding).
    model.initialize_weights()
    model.eval()


def tie_within(blueprint: Blueprint, part: PartSpec, model: PreTrainedModel) -> None:
    """Make a parameter that has two names in one part one parameter, as whoever holds several parts does for all ties."""
    for borrowed, owned in blueprint.ties.items():
        if blueprint.belongs_to(borrowed, part) and blueprint.belongs_to(owned, part):
            path, _, leaf = blueprint.local_name(borrowed, part).rpartition(".")
            setattr(model.get_submodule(path), leaf, model.get_parameter(blueprint.local_name(owned, part)))


@torch.no_grad()
def change_as_owners_do(blueprint: Blueprint, part: PartSpec, model: PreTrainedModel, owners: Mapping[str, str]) -> None:
    """Do to a borrowed or copied tensor what transformers does after loading to its owner, if that is in another part.

    Args:
        blueprint: the unsplit model's structure.
        part: the part.
        model: the part, filled.
        owners: from the tensors that are borrowed or copied to those that the checkpoint's own model keeps.
    """
    for borrowed, owned in owners.items():
        if not blueprint.belongs_to(borrowed, part) or blueprint.belongs_to(owned, part):
            continue
        parameter = model.get_parameter(blueprint.local_name(borrowed, part))
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # the mark by which transformers leaves it as it is
        path, _, leaf = owned.rpartition(".")
        # A copy without its tensors' memory, which holds nothing but the borrowed tensor.
        owner = copy.copy(blueprint.meta_model.get_submodule(path))
        owner._parameters = {**owner._parameters, leaf: parameter}
        blueprint.meta_model._init_weights(owner)
