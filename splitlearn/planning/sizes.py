"""Bytes and computation of a model's layers, known from its structure alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint

# Names by which configurations give the number of experts that a token passes.
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "num_selected_experts")


@dataclass(frozen=True)
class Sizes:
    """A figure for each layer, and for the modules before and after the layers.

    Attributes:
        before: figure of the modules before the first layer, such as the embedding.
        layers: figure of each decoder layer.
        after: figure of the modules after the last layer, such as final norm and head; a tied head counts in full.
    """

    before: int
    layers: tuple[int, ...]
    after: int

    def of(self, part: PartSpec) -> int:
        """Return the figure of one part.

        Args:
            part: the part.
        """
        return sum(self.layers[part.start : part.end]) + self.before * part.has_embedding + self.after * part.has_head


def weight_bytes(blueprint: Blueprint) -> Sizes:
    """Return the bytes of the parameters in the blueprint's dtype.

    Args:
        blueprint: the model.
    """
    return _sizes(blueprint, {name: parameter.nbytes for name, parameter in _parameters(blueprint).items()})


def compute_per_token(blueprint: Blueprint) -> Sizes:
    """Return how many multiplications with weights one token takes.

    Embeddings are looked up and not multiplied with; of a mixture of experts only those that a token passes count. Attention's
    scores, which grow with the length of the text, are left out.

    Args:
        blueprint: the model.
    """
    embedding = id(blueprint.meta_model.get_input_embeddings().weight)
    share = _share_of_experts(blueprint)
    counts = {}
    for name, parameter in _parameters(blueprint).items():
        is_looked_up = id(parameter) == embedding and name not in blueprint.ties
        is_multiplied = parameter.ndim >= 2 and not is_looked_up
        # Experts are stored together: (experts, rows, columns).
        counts[name] = int(parameter.numel() * (share if parameter.ndim == 3 else 1)) if is_multiplied else 0
    return _sizes(blueprint, counts)


def _parameters(blueprint: Blueprint) -> dict[str, torch.nn.Parameter]:
    return dict(blueprint.meta_model.named_parameters(remove_duplicate=False))


def _share_of_experts(blueprint: Blueprint) -> float:
    config = blueprint.config.get_text_config(decoder=True)
    used = next((value for name in _EXPERTS_USED if isinstance(value := getattr(config, name, None), int)), None)
    stacked = [parameter.shape[0] for parameter in _parameters(blueprint).values() if parameter.ndim == 3]
    return min(used / max(stacked), 1.0) if used and stacked else 1.0


def _sizes(blueprint: Blueprint, figures: dict[str, int]) -> Sizes:
    layers = [0] * len(blueprint.anatomy.layers(blueprint.meta_model))
    before = after = 0
    first = PartSpec("bottom", 0, 0, len(layers))
    for name, figure in figures.items():
        layer = blueprint.layer_of(name)
        if layer is not None:
            layers[layer] += figure
        elif blueprint.belongs_to(name, first):
            before += figure
        else:
            after += figure
    return Sizes(before, tuple(layers), after)
