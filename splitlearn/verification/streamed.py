"""Comparing the parts with the unsplit model, whose layers are loaded one by one and dropped after use.

For models larger than the machine's memory, which holds one layer or one part at a time, besides the embedding and the head.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from splitlearn.cut import PartSpec
from splitlearn.loading import OpenedModel, PartLoader
from splitlearn.model import SplitModel
from splitlearn.verification.inputs import draw_ids, padded
from splitlearn.verification.outcome import Outcome, compare_tensors


def verify_streamed(
    opened: OpenedModel,
    *,
    num_rows: int = 2,
    num_tokens: int = 32,
    seed: int = 0,
) -> list[Outcome]:
    """Compare the smashed data at both cuts and the logits, on the CPU, with left padding.

    Args:
        opened: the model, cut and not quantized.
        num_rows: rows of random token ids.
        num_tokens: tokens of each row.
        seed: seeds the token ids.

    Returns:
        One outcome for each comparison.

    Raises:
        ValueError: the model, the cut or the checkpoint cannot be used.
        FileNotFoundError: the checkpoint is not there.
    """
    ids_BT = draw_ids(opened.config, num_rows, num_tokens, seed)
    opened.settle_ties()
    loader = opened.loader
    loader.blueprint.check(opened.plan)
    mask_BT = padded(ids_BT, "left")
    with torch.no_grad():
        expected = StreamedModel(loader).run(ids_BT, mask_BT)
        outcomes = []
        hidden: Any = ids_BT
        for part in opened.plan.parts:
            output = _load(loader, part)(hidden, attention_mask=mask_BT)
            hidden = output.logits if part.has_head else output
            subject = "logits" if part.has_head else f"smashed data after {part.name}"
            outcomes.append(compare_tensors(subject, expected[None if part.has_head else part.end], hidden))
    return outcomes


def _load(loader: PartLoader, part: PartSpec) -> SplitModel:
    try:
        return loader.load(loader.reading(part), lambda name, size_bytes: None, {})
    finally:
        loader.close(part)


class StreamedModel:
    """The unsplit model, run with one layer's weights at a time.

    transformers' own class runs with all its layers under their own numbers; hooks load a layer's weights before it runs and
    drop them afterwards.

    Args:
        loader: the opened checkpoint.
    """

    def __init__(self, loader: PartLoader) -> None:
        self._loader = loader
        self._anatomy = loader.blueprint.anatomy
        self._model: PreTrainedModel = copy.deepcopy(loader.blueprint.meta_model).eval()
        self._seen: dict[int | None, torch.Tensor] = {}

    def run(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> dict[int | None, torch.Tensor]:
        """Run the model.

        Args:
            ids_BT: token ids, shape (B, T).
            mask_BT: attention mask, shape (B, T).

        Returns:
            The hidden states (B, T, D) before each layer and, under the number of layers, after the last; the logits under
            None.
        """
        num_layers = len(self._anatomy.layers(self._model))
        for part in (PartSpec("bottom", 0, 1, num_layers), PartSpec("top", num_layers - 1, num_layers, num_layers)):
            self._fill_around_layers(_load(self._loader, part))
        for index, layer in enumerate(self._anatomy.layers(self._model)):
            self._stream(layer, PartSpec("trunk", index, index + 1, num_layers))
        logits = self._model(ids_BT, attention_mask=mask_BT, use_cache=False).logits
        return {**self._seen, None: logits}

    def _fill_around_layers(self, part: SplitModel) -> None:
        paths = self._anatomy.before_layers if part.spec.has_embedding else self._anatomy.after_layers
        for path in paths:
            self._anatomy.replace(self._model, path, part.model.get_submodule(path))
        if part.spec.has_embedding:
            # Buffers of the modules on the way to the layers, such as position ids, belong to no replaced module.
            steps = self._anatomy.layers_path.split(".")
            for depth in range(len(steps)):
                way = ".".join(steps[:depth])
                self._model.get_submodule(way)._buffers.update(part.model.get_submodule(way)._buffers)

    def _stream(self, layer: nn.Module, part: PartSpec) -> None:
        def fill(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._seen[part.start] = args[0] if args else kwargs["hidden_states"]
            loaded = self._anatomy.layers(_load(self._loader, part).model)[0]
            for name, source in loaded.named_modules():
                target = module.get_submodule(name)
                target._parameters, target._buffers = source._parameters, source._buffers

        def drop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._seen[part.end] = output if isinstance(output, torch.Tensor) else output[0]
            # Free the layer's weights.
            module.to("meta")

        layer.register_forward_pre_hook(fill, with_kwargs=True)
        layer.register_forward_hook(drop)
