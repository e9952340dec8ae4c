"""One call of a model that runs on stand-ins and stops at its first decoder layer.

It shows which modules run before the layers and which arguments the first layer gets, without any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from splitlearn.model.modes import evaluating
from splitlearn.model.refusals import UnsupportedModelError


class _LayersReachedError(Exception):
    """Ends the trial call at the first decoder layer; carries the arguments it was called with."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def owns_something(module: nn.Module) -> bool:
    """Whether a module holds weights or draws random numbers, so that only one part may run it.

    Args:
        module: a module with its submodules.
    """
    is_random = any(isinstance(submodule, nn.Dropout) for submodule in module.modules())
    return is_random or any(True for _ in module.parameters())


def _stand_in_forward(module: nn.Module, hidden_size: int) -> Callable[..., torch.Tensor]:
    width = getattr(module, "embedding_dim", getattr(module, "out_features", None))
    # Outputs that require gradients mark all that is computed from them, so that `examine` sees which arguments of the layers
    # depend on weights of the bottom. Modules without weights run in every part and need no mark.
    is_followed = owns_something(module)

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        floats = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.ndim >= 3]
        if floats:
            like = floats[0] if width is None else floats[0].new_zeros(*floats[0].shape[:-1], width)
        else:
            like = torch.zeros(*(tensors[0].shape if tensors else (2, 3)), width or hidden_size)
        # Return a copy: the model may write into it, which autograd forbids for a leaf that requires gradients.
        return like.detach().requires_grad_(is_followed).clone()

    return forward


@contextmanager
def _forwards_replaced(replacements: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    try:
        for module, forward in replacements.items():
            module.forward = forward
        yield
    finally:
        for module in replacements:
            del module.forward


@contextmanager
def _own_tensors_replaced(modules: list[nn.Module]) -> Iterator[None]:
    """Put ones on the CPU for the tensors, on the meta device, that ``modules`` themselves own."""
    stores: list[dict[str, Any]] = [store for module in modules for store in (module._buffers, module._parameters)]
    saved = [dict(store) for store in stores]
    try:
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    # An operation cannot mix these meta tensors with the stand-ins, which are on the CPU.
                    ones = torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_trained = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(ones, requires_grad=ones.is_floating_point()) if is_trained else ones
        yield
    finally:
        for store, tensors in zip(stores, saved, strict=True):
            store.update(tensors)


def run_to_layers(
    model: PreTrainedModel, layers_path: str, beside: Mapping[str, nn.Module], hidden_size: int
) -> tuple[set[str], dict[str, Any]]:
    """Call the base model with stand-ins for its modules, up to its first layer.

    Args:
        model: the causal LM, perhaps on the meta device; it is left as it was.
        layers_path: dotted path of its layer list, which begins with the base model.
        beside: the modules beside the way to the layers, by path; each is replaced by a stand-in.
        hidden_size: numbers in the embedding of one token.

    Returns:
        The paths of the modules that ran before the layers, and the arguments of the first layer.

    Raises:
        UnsupportedModelError: the call fails, or ends without reaching the layers.
    """
    layers = cast(nn.ModuleList, model.get_submodule(layers_path))
    ran: set[str] = set()

    def recorded(path: str, module: nn.Module) -> Callable[..., torch.Tensor]:
        forward = _stand_in_forward(module, hidden_size)

        def record(*args: Any, **kwargs: Any) -> torch.Tensor:
            ran.add(path)
            return forward(*args, **kwargs)

        return record

    def reached(*args: Any, **kwargs: Any) -> None:
        raise _LayersReachedError({f"argument {index}": value for index, value in enumerate(args)} | kwargs)

    replacements: dict[nn.Module, Callable[..., Any]] = {module: recorded(path, module) for path, module in beside.items()}
    steps = layers_path.split(".")
    way = [model.get_submodule(".".join(steps[:depth])) for depth in range(len(steps))]
    # Two rows, so that a stand-in's output can be unpacked like the (cos, sin) pair of a rotary embedding.
    ids = torch.ones(2, 3, dtype=torch.long, device="cpu")
    with (
        # In training mode LayerDrop may leave out the first layer.
        evaluating(model),
        _forwards_replaced(replacements | dict.fromkeys(layers, reached)),
        _own_tensors_replaced(way),
        torch.enable_grad(),
        torch.device("cpu"),
    ):
        try:
            way[1](input_ids=ids, use_cache=False)
        except _LayersReachedError as end:
            return ran, end.arguments
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UnsupportedModelError(
                f"{type(model).__name__} does more before its layers than could be followed ({reason}), so it cannot be cut"
            ) from error
    raise UnsupportedModelError(f"{type(model).__name__} was called without reaching its decoder layers, so it cannot be cut")
