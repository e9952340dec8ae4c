"""What of torch is not public and this library uses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.internals.relied_upon import Internal, check


def a_tensor() -> torch.Tensor:
    return torch.zeros(1)


def a_storage() -> torch.UntypedStorage:
    return torch.zeros(1).untyped_storage()


INTERNALS = [
    Internal(a_storage, "_cdata", "which tensors without values share memory"),
    Internal(nn.Module, "_parameters", "putting tensors into a module, also those that are None now"),
    Internal(nn.Module, "_buffers", "putting tensors into a module, also those that are None now"),
    Internal(a_tensor, "_version", "whether a gradient is another than before"),
    Internal("torch", "_foreach_mul_", "scaling all gradients in few kernels"),
    Internal("torch._subclasses.fake_tensor", "FakeTensorMode", "figures of a run without values", ("allow_non_fake_inputs",)),
    Internal("torch.overrides", "TorchFunctionMode", "answering draws of numbers that a model looks at"),
    Internal("torch.nn.attention", "sdpa_kernel", "attention that can be differentiated twice", ("backends",)),
    Internal("torch.nn.attention", "SDPBackend", "attention that can be differentiated twice"),
    Internal("torch.utils._pytree", "tree_flatten", "the tensors in whatever a layer returns", ("tree",)),
    Internal("torch.utils.weak", "WeakIdKeyDictionary", "notes on parameters that do not keep them alive"),
    Internal("torch.optim.optimizer", "register_optimizer_step_post_hook", "seeing each optimizer's step", ("hook",)),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("torch", internal)


def test_tensors_put_into_a_module_are_its_own() -> None:
    module = nn.Linear(2, 2)
    weight = nn.Parameter(torch.ones(2, 2))
    module._parameters["weight"] = weight
    module._buffers["mask"] = torch.zeros(2)
    assert module.weight is weight and dict(module.named_buffers()).keys() == {"mask"}


def test_a_gradients_version_counts_its_changes() -> None:
    gradient = torch.zeros(2)
    before = gradient._version
    gradient.add_(1)
    assert gradient._version > before
