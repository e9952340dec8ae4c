"""Measuring the activations that a training step keeps for the backward pass, on tensors that have shapes and no memory.

The model is run forward as in training, with torch's fake tensors in place of weights, while autograd's saved-tensor hook
counts the tensors it saves. Layers that are alike in every shape and setting are run once. Attention is given a mask, as for
padded rows; without padding it may keep a little less.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten
from transformers.pytorch_utils import Conv1D

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint, chunked_loss

_SCALARS = (bool, int, float, str)
# Attributes that differ between equal layers without changing what autograd saves.
_POSITIONS = ("layer_idx", "layer_id", "layer_index", "layer_number")

# The ledger's place before the first layer.
_BEFORE = -1


@dataclass(frozen=True)
class Activations:
    """Bytes kept for the backward pass, for one batch.

    Attributes:
        before: bytes kept by the modules before the first layer.
        layers: bytes kept by each decoder layer.
        after: bytes kept by the modules after the last layer, the loss included.
        temporary: bytes that the loss and its gradient take for a moment, in the part with the head.
        is_upper_bound: whether the true figure may be lower.
    """

    before: int
    layers: tuple[int, ...]
    after: int
    temporary: int
    is_upper_bound: bool = False

    def scaled(self, factor: int) -> Activations:
        """Return the figures for a wider dtype, as an upper bound: not all that is kept has the model's dtype.

        Args:
            factor: the wider dtype's bytes per value over this one's.
        """
        layers = tuple(factor * layer_bytes for layer_bytes in self.layers)
        return Activations(factor * self.before, layers, factor * self.after, factor * self.temporary, True)

    def of(self, part: PartSpec) -> int:
        """Return the bytes that one part needs.

        Args:
            part: the part.
        """
        own = sum(self.layers[part.start : part.end])
        return own + self.before * part.has_embedding + (self.after + self.temporary) * part.has_head


class _Ledger:
    """Counts each storage that autograd saves once, for the layer that was running when it was first saved."""

    def __init__(self, not_counted: Iterable[torch.Tensor]) -> None:
        self.place = _BEFORE
        self.bytes_at: dict[int, int] = {}
        # Storages are kept: another could reuse a freed one's address and would not be counted. Tensors would keep autograd's
        # graph, which holds this ledger, so that neither would ever go.
        self._seen: dict[int, torch.UntypedStorage] = {}
        self.leave_out(not_counted)
        self._common: dict[int, torch.UntypedStorage] = {}

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do not count tensors that exist anyway, such as weights.

        Args:
            tensors: the tensors.
        """
        self._seen |= _storages(tensors)

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that all layers get, if one saves them, as kept before the layers.

        Args:
            tensors: the tensors.
        """
        self._common |= _storages(tensors)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor that autograd saves, and return what is saved in its place.

        Args:
            tensor: a tensor of any shape.
        """
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            place = _BEFORE if storage._cdata in self._common else self.place
            self.bytes_at[place] = self.bytes_at.get(place, 0) + storage.nbytes()
        # An operation that saves its own output would otherwise hold itself, and no backward pass comes to let go of it.
        return tensor.detach()


class _NoLayerDropped(TorchFunctionMode):
    """Answers the draw of a single random number by 1, so that no layer is left out.

    Models that drop layers draw one for each layer and look at its value, which a fake tensor has not got.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or answer in its place."""
        if func is torch.rand and args in (([],), ((),)):
            return 1.0
        return func(*args, **kwargs or {})


def _storages(tensors: Iterable[torch.Tensor]) -> dict[int, torch.UntypedStorage]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage for storage in storages}


def measure_activations(
    blueprint: Blueprint, num_rows: int, num_tokens: int, lora_rank: int | None = None, chunk_tokens: int | None = None
) -> Activations | None:
    """Measure the bytes that one batch keeps for the backward pass.

    Args:
        blueprint: the model.
        num_rows: rows of the batch (B).
        num_tokens: tokens of each row (T).
        lora_rank: measure with all weights frozen and adapters of this rank beside every linear layer but the head; 0 without
            adapters, as in a frozen part that gradients pass; None with all weights trained.
        chunk_tokens: for how many positions logits are in memory at a time, where the head is one linear map; None for all.

    Returns:
        The bytes, or None if the model cannot run without values, because they decide which operations it runs.
    """
    # Some operations of mixtures of experts run on fake tensors in bfloat16 only.
    for dtype in dict.fromkeys((blueprint.dtype, torch.bfloat16)):
        try:
            measured = _measure(blueprint, num_rows, num_tokens, lora_rank, chunk_tokens, dtype)
        except Exception:  # noqa: S112
            # Models fail in many ways without values; the figure is then reported as unknown.
            continue
        return measured.scaled(blueprint.dtype.itemsize // dtype.itemsize) if dtype != blueprint.dtype else measured
    return None


def _measure(
    blueprint: Blueprint, num_rows: int, num_tokens: int, lora_rank: int | None, chunk_tokens: int | None, dtype: torch.dtype
) -> Activations:
    model = copy.deepcopy(blueprint.meta_model)
    nn.Module.to(model, dtype)
    model.train()
    layers = list(blueprint.anatomy.layers(model))
    twins = _first_alike(layers)
    mode, not_dropped = FakeTensorMode(allow_non_fake_inputs=True), _NoLayerDropped()
    with mode, torch.device("cpu"), not_dropped, contextlib.ExitStack() as stack:
        shared = _give_shapes(model, [layer for index, layer in enumerate(layers) if twins[index] != index])
        ledger = _Ledger(shared)
        if lora_rank is not None:
            model.requires_grad_(False)
            head = model.get_output_embeddings()
            for module in model.modules() if lora_rank else ():
                if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
                    module.register_forward_hook(_adapter(module, lora_rank, ledger))
        _follow(layers, twins, ledger)
        ids_BT = torch.zeros(num_rows, num_tokens, dtype=torch.long)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda tensor: tensor))
        vocabulary = blueprint.config.get_text_config(decoder=True).vocab_size
        if chunk_tokens is None:
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
            model.loss_function(logits=logits_BTV, labels=ids_BT, vocab_size=vocabulary)
        else:
            hidden_BTD = blueprint.anatomy.base(model)(input_ids=ids_BT, use_cache=False)[0]
            chunked_loss(model.get_output_embeddings(), hidden_BTD, ids_BT, 1, chunk_tokens)
    saved = ledger.bytes_at
    # The gradient of the loss with respect to the logits, in float32 as transformers computes it, and its copy in the model's
    # dtype; of a piece its logits in float32 and their softmax.
    per_logit = 4 + (dtype.itemsize if chunk_tokens is None else 4)
    temporary = (chunk_tokens or num_rows * num_tokens) * vocabulary * per_logit
    per_layer = tuple(saved.get(twin, 0) for twin in twins)
    may_drop = any((getattr(module, "layerdrop", None) or 0) > 0 for module in model.modules())
    return Activations(saved.get(_BEFORE, 0), per_layer, saved.get(len(layers), 0), temporary, may_drop)


def _first_alike(layers: list[nn.Module]) -> list[int]:
    """Return for each layer the number of the first layer that is like it."""
    first: dict[Any, int] = {}
    return [first.setdefault(_signature(layer), index) for index, layer in enumerate(layers)]


def _signature(layer: nn.Module) -> Any:
    settings = [
        (path, type(module), tuple(sorted((name, value) for name, value in vars(module).items() if _tells_apart(name, value))))
        for path, module in layer.named_modules()
    ]
    tensors = [(name, tuple(tensor.shape)) for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]]
    return tuple(settings), tuple(tensors)


def _tells_apart(name: str, value: Any) -> bool:
    return isinstance(value, _SCALARS) and name not in _POSITIONS


def _give_shapes(model: nn.Module, left_out: list[nn.Module]) -> list[torch.Tensor]:
    """Put fake tensors on the CPU in the place of meta tensors, but for the layers ``left_out``; return them."""
    skipped = {module for layer in left_out for module in layer.modules()}
    fakes: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        if module in skipped:
            continue
        stores: list[dict[str, Any]] = [module._parameters, module._buffers]
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if tensor not in fakes:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    fakes[tensor] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
                store[name] = fakes[tensor]
    return list(fakes.values())


def _adapter(module: nn.Module, rank: int, ledger: _Ledger) -> Callable[..., torch.Tensor]:
    weight: Any = module.weight
    transposed = isinstance(module, Conv1D)
    width_in, width_out = weight.shape if transposed else reversed(weight.shape)
    down = nn.Parameter(torch.empty(rank, width_in, dtype=weight.dtype))
    up = nn.Parameter(torch.empty(width_out, rank, dtype=weight.dtype))
    ledger.leave_out((down, up))

    def add(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + nn.functional.linear(nn.functional.linear(inputs[0], down), up)

    return add


def _follow(layers: list[nn.Module], twins: list[int], ledger: _Ledger) -> None:
    """Tell the ledger which layer runs; a layer like an earlier one only passes its input on, in that one's output format."""
    outputs: dict[int, Any] = {}

    def run(index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def first(*args: Any, **kwargs: Any) -> Any:
            ledger.place = index
            hidden_BTD = args[0] if args else kwargs["hidden_states"]
            # With frozen embeddings the first layer's input needs no gradient, but that of its twins above does.
            hidden_BTD.requires_grad_(True)
            # Every layer gets the same masks and rotary embeddings, which are saved once.
            extra, _ = tree_flatten([args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}])
            ledger.share(value for value in extra if isinstance(value, torch.Tensor))
            output = forward(*args, **kwargs)
            ledger.place = len(layers)
            outputs[index] = output
            return output

        return first

    def skip(index: int) -> Callable[..., Any]:
        def again(*args: Any, **kwargs: Any) -> Any:
            hidden_BTD = args[0] if args else kwargs["hidden_states"]
            like = outputs[twins[index]]
            return type(like)([hidden_BTD, *like[1:]]) if isinstance(like, (tuple, list)) else hidden_BTD

        return again

    for index, layer in enumerate(layers):
        replacement: Any = run(index, layer.forward) if twins[index] == index else skip(index)
        layer.forward = replacement
