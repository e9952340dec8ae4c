"""What a transformers causal LM is made of: its decoder layers, and what runs before and after them.

Nothing here knows an architecture. The layers are the module list as long as the configuration says; what runs before them
is found by calling the model once with stand-ins for its modules and stopping at the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class UnsupportedModelError(ValueError):
    """A model whose structure cannot be cut: the message names the model and what was not found."""


@dataclass(frozen=True)
class Anatomy:
    """Where the layers of a causal LM are and what stands around them.

    Attributes:
        base_name: attribute of the causal LM that holds the base model (all but the head).
        decoder_path: dotted path from the causal LM to the module that owns the layer list.
        layers_name: attribute of that module that is the layer list.
        before_layers: its other children that run before the first layer.
        after_layers: its other children, which run after the last layer.
    """

    base_name: str
    decoder_path: str
    layers_name: str
    before_layers: tuple[str, ...]
    after_layers: tuple[str, ...]

    def base(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the base model of ``model``."""
        return getattr(model, self.base_name)

    def decoder(self, model: PreTrainedModel) -> nn.Module:
        """Return the module of ``model`` that owns the layer list."""
        decoder: nn.Module = model.get_submodule(self.decoder_path)
        return decoder

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the layer list of ``model``."""
        layers = getattr(self.decoder(model), self.layers_name)
        if not isinstance(layers, nn.ModuleList):
            raise TypeError(f"{self.decoder_path}.{self.layers_name} is not a module list")
        return layers


def _find_layers(model: PreTrainedModel) -> tuple[str, str]:
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [
        (path, name)
        for path, module in model.named_modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == num_layers and path
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no module list of {num_layers} decoder layers, so it cannot be cut"
        )
    # The outermost list is the decoder's; lists inside a layer (experts, say) lie deeper.
    return min(found, key=lambda place: place[0].count("."))


class _LayersReachedError(Exception):
    """Ends the trial call at the first decoder layer."""


def _stand_in_forward(module: nn.Module, hidden_size: int) -> Callable[..., torch.Tensor]:
    width = getattr(module, "embedding_dim", getattr(module, "out_features", None))

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        floats = [each for each in tensors if each.is_floating_point() and each.ndim >= 3]
        if floats:
            return floats[0] if width is None else floats[0].new_zeros(*floats[0].shape[:-1], width)
        return torch.zeros(*tensors[0].shape, width or hidden_size)

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


def _run_before_layers(model: PreTrainedModel, base_name: str, decoder: nn.Module, layers: nn.ModuleList) -> set[str]:
    hidden_size = model.get_input_embeddings().embedding_dim
    ran: set[str] = set()

    def recorded(name: str, module: nn.Module) -> Callable[..., torch.Tensor]:
        forward = _stand_in_forward(module, hidden_size)

        def record(*args: Any, **kwargs: Any) -> torch.Tensor:
            ran.add(name)
            return forward(*args, **kwargs)

        return record

    def reached(*args: Any, **kwargs: Any) -> None:
        raise _LayersReachedError

    replacements: dict[nn.Module, Callable[..., Any]] = {
        child: recorded(name, child) for name, child in decoder.named_children() if child is not layers
    }
    # Two rows, so that a stand-in's output can be unpacked like the (cos, sin) pair of a rotary embedding.
    with _forwards_replaced(replacements | dict.fromkeys(layers, reached)), torch.no_grad(), torch.device("cpu"):
        try:
            getattr(model, base_name)(input_ids=torch.ones(2, 3, dtype=torch.long), use_cache=False)
        except _LayersReachedError:
            return ran
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
        UnsupportedModelError: the model has no list of decoder layers, or does not reach it when it is called.
    """
    decoder_path, layers_name = _find_layers(model)
    base_name = decoder_path.split(".")[0]
    decoder = model.get_submodule(decoder_path)
    layers = getattr(decoder, layers_name)
    ran = _run_before_layers(model, base_name, decoder, layers)
    others = [name for name, child in decoder.named_children() if child is not layers]
    return Anatomy(
        base_name=base_name,
        decoder_path=decoder_path,
        layers_name=layers_name,
        before_layers=tuple(name for name in others if name in ran),
        after_layers=tuple(name for name in others if name not in ran),
    )
