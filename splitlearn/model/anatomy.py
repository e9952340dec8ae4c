"""What a transformers causal LM is made of: its decoder layers, and what runs before and after them.

Nothing here knows an architecture. The layers are the module list as long as the configuration says; what runs before them
is found by calling the model once with stand-ins for its modules and stopping at the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from splitlearn.model.refusals import (
    UnsupportedModelError,
    refuse_loose_parameters,
    refuse_more_than_text,
    refuse_second_stream,
    refuse_unlike_layers,
    refuse_what_no_inspection_shows,
    refuse_without_embeds,
)


@dataclass(frozen=True)
class Anatomy:
    """Where the layers of a causal LM are and what stands around them.

    The way to the layers leads from the causal LM over its base model to the layer list; every module beside that way runs
    before the first layer or after the last. Paths are dotted and relative to the causal LM.

    Attributes:
        base_name: attribute of the causal LM that holds the base model (all but the head).
        layers_path: path of the layer list.
        before_layers: paths of the modules beside the way that run before the first layer.
        after_layers: paths of the modules beside the way that do not, the head among them.
    """

    base_name: str
    layers_path: str
    before_layers: tuple[str, ...]
    after_layers: tuple[str, ...]

    @property
    def after_in_base(self) -> tuple[str, ...]:
        """Paths of the modules of the base model that run after its layers."""
        return tuple(path for path in self.after_layers if path.startswith(f"{self.base_name}."))

    def base(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the base model of ``model``."""
        return getattr(model, self.base_name)

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the layer list of ``model``."""
        layers = model.get_submodule(self.layers_path)
        if not isinstance(layers, nn.ModuleList):
            raise TypeError(f"{self.layers_path} is not a module list")
        return layers

    def replace(self, model: PreTrainedModel, path: str, module: nn.Module | None) -> None:
        """Put ``module`` at ``path`` of ``model``."""
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, module)


# What configurations call the number of decoder layers, the most specific name first: encoder-decoders have two numbers.
_LAYER_COUNTS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")


def count_layers(config: PreTrainedConfig) -> int:
    """Return how many decoder layers a causal LM of this configuration has.

    Raises:
        UnsupportedModelError: the configuration does not say.
    """
    text = config.get_text_config(decoder=True)
    counts = [getattr(text, name) for name in _LAYER_COUNTS if isinstance(getattr(text, name, None), int)]
    if not counts:
        raise UnsupportedModelError(f"the configuration of {config.model_type} does not say how many decoder layers there are")
    return counts[0]


def _find_layers(model: PreTrainedModel) -> str:
    num_layers = count_layers(model.config)
    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and "." in path
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no module list of {num_layers} decoder layers, so it cannot be cut"
        )
    # The outermost list is the decoder's; lists inside a layer (experts, say) lie deeper.
    outermost = min(path.count(".") for path in found)
    lists = [path for path in found if path.count(".") == outermost]
    if len(lists) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} spreads its layers over several lists ({', '.join(lists)}), so it cannot be cut"
        )
    return lists[0]


def _beside_the_way(model: PreTrainedModel, layers_path: str) -> dict[str, nn.Module]:
    """Return the modules beside the way from the causal LM to its layers, by path."""
    steps = layers_path.split(".")
    beside: dict[str, nn.Module] = {}
    for depth, step in enumerate(steps):
        owner = ".".join(steps[:depth])
        for name, child in model.get_submodule(owner).named_children():
            if name != step:
                path = f"{owner}.{name}" if owner else name
                # A list is never called itself, its members are.
                members = child.named_children() if isinstance(child, (nn.ModuleList, nn.ModuleDict)) else ()
                beside |= {f"{path}.{member}": module for member, module in members} or {path: child}
    return beside


class _LayersReachedError(Exception):
    """Ends the trial call at the first decoder layer; carries the arguments it was called with."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def owns_something(module: nn.Module) -> bool:
    """Whether a module holds weights or randomness, so that only one part may run it."""
    is_random = any(isinstance(each, nn.Dropout) for each in module.modules())
    return is_random or any(True for _ in module.parameters())


def embedding_width(model: PreTrainedModel) -> int:
    """Return how many numbers the embedding of one token has, as it enters the first decoder layer."""
    return cast(int, model.get_input_embeddings().embedding_dim)


def _stand_in_forward(module: nn.Module, hidden_size: int) -> Callable[..., torch.Tensor]:
    width = getattr(module, "embedding_dim", getattr(module, "out_features", None))
    # Gradients tell afterwards what was computed from which stand-in: only what a part owns is followed.
    is_followed = owns_something(module)

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        floats = [each for each in tensors if each.is_floating_point() and each.ndim >= 3]
        if floats:
            like = floats[0] if width is None else floats[0].new_zeros(*floats[0].shape[:-1], width)
        else:
            like = torch.zeros(*(tensors[0].shape if tensors else (2, 3)), width or hidden_size)
        # A copy, for the model may write into it.
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
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model from leaving out layers at random."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _own_tensors_replaced(modules: list[nn.Module]) -> Iterator[None]:
    """Put ones on the CPU for the tensors, on the meta device, that ``modules`` themselves own."""
    stores: list[dict[str, Any]] = [store for module in modules for store in (module._buffers, module._parameters)]
    saved = [dict(store) for store in stores]
    try:
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    ones = torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_trained = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(ones, requires_grad=ones.is_floating_point()) if is_trained else ones
        yield
    finally:
        for store, tensors in zip(stores, saved, strict=True):
            store.update(tensors)


def _run_to_layers(model: PreTrainedModel, base_name: str, layers_path: str) -> tuple[set[str], dict[str, Any]]:
    """Call the base model with stand-ins; return what ran before its layers and what the first layer was given."""
    hidden_size = embedding_width(model)
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

    beside = _beside_the_way(model, layers_path)
    replacements: dict[nn.Module, Callable[..., Any]] = {module: recorded(path, module) for path, module in beside.items()}
    steps = layers_path.split(".")
    way = [model.get_submodule(".".join(steps[:depth])) for depth in range(len(steps))]
    # Two rows, so that a stand-in's output can be unpacked like the (cos, sin) pair of a rotary embedding.
    ids = torch.ones(2, 3, dtype=torch.long, device="cpu")
    with (
        _evaluating(model),
        _forwards_replaced(replacements | dict.fromkeys(layers, reached)),
        _own_tensors_replaced(way),
        torch.enable_grad(),
        torch.device("cpu"),
    ):
        try:
            getattr(model, base_name)(input_ids=ids, use_cache=False)
        except _LayersReachedError as end:
            return ran, end.arguments
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UnsupportedModelError(
                f"{type(model).__name__} does more before its layers than could be followed ({reason}), so it cannot be cut"
            ) from error
    raise UnsupportedModelError(f"{type(model).__name__} was called without reaching its decoder layers, so it cannot be cut")


def examine(model: PreTrainedModel) -> Anatomy:
    """Find the layers of a causal LM and what runs before and after them.

    The model may be on the meta device; none of its weights is used and it is left as it was.

    Args:
        model: a transformers causal LM with all its layers.

    Returns:
        The places of the layers and of the modules around them.

    Raises:
        UnsupportedModelError: the model has no list of decoder layers, does not reach it when it is called, or hands its layers
            more than hidden states.
    """
    refuse_what_no_inspection_shows(model)
    refuse_more_than_text(model)
    refuse_unlike_layers(model)
    layers_path = _find_layers(model)
    refuse_loose_parameters(model, layers_path)
    base_name = layers_path.split(".")[0]
    refuse_without_embeds(model, base_name)
    ran, arguments = _run_to_layers(model, base_name, layers_path)
    refuse_second_stream(model, arguments)
    beside = _beside_the_way(model, layers_path)
    return Anatomy(
        base_name=base_name,
        layers_path=layers_path,
        before_layers=tuple(path for path in beside if path in ran),
        after_layers=tuple(path for path in beside if path not in ran),
    )
