"""Giving a part, which was cut out on the meta device, its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel


def put_tensor(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Make ``tensor`` the parameter or buffer called ``name``; it is shared, not copied."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    else:
        module._buffers[leaf] = tensor


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
    to_compute = {name: buffer for name, buffer in model.named_buffers() if buffer.is_meta}
    for name, buffer in to_compute.items():
        put_tensor(model, name, torch.empty_like(buffer, device="cpu"))
    for path, module in model.named_modules():
        # Whole layers are passed over at once, if nothing in them is to be computed.
        module._is_hf_initialized = not any(name.startswith(f"{path}." if path else "") for name in to_compute)
    model.initialize_weights()
    model.eval()
