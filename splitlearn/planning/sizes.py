"""How large the layers of a model are, and what they compute, known from its structure alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splitlearn.cut import PartSpec
from splitlearn.model import Blueprint

# What configurations call the number of experts that a token passes, and that there are.
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "num_selected_experts")


@dataclass(frozen=True)
class Sizes:
    """One figure for what comes before the layers, for each layer, and for what comes after them.

    Attributes:
        before: of what runs before the first layer, the embedding.
        layers: of each decoder layer.
        after: of what runs after the last layer, the final norm and the head; a tied head counts in full.
    """

    before: int
    layers: tuple[int, ...]
    after: int

    def of(self, part: PartSpec) -> int:
        """Return the figure of one part."""
        return sum(self.layers[part.start : part.end]) + self.before * part.has_embedding + self.after * part.has_head


def weight_bytes(blueprint: Blueprint) -> Sizes:
    """Return the bytes of the parameters in the blueprint's dtype."""
    return _sizes(blueprint, {name: each.nbytes for name, each in _parameters(blueprint).items()})


def compute_per_token(blueprint: Blueprint) -> Sizes:
    """Return how many multiplications with weights one token takes.

    Embeddings are looked up and not multiplied with; of a mixture of experts only those that a token passes count. What grows
    with the length of the text (attention's scores) is left out.
    """
    embedding = id(blueprint.meta_model.get_input_embeddings().weight)
    share = _share_of_experts(blueprint)
    counts = {}
    for name, each in _parameters(blueprint).items():
        is_looked_up = id(each) == embedding and name not in blueprint.ties
        is_multiplied = each.ndim >= 2 and not is_looked_up
        # Experts are stored together: (experts, rows, columns).
        counts[name] = int(each.numel() * (share if each.ndim == 3 else 1)) if is_multiplied else 0
    return _sizes(blueprint, counts)


def _parameters(blueprint: Blueprint) -> dict[str, torch.nn.Parameter]:
    return dict(blueprint.meta_model.named_parameters(remove_duplicate=False))


def _share_of_experts(blueprint: Blueprint) -> float:
    config = blueprint.config.get_text_config(decoder=True)
    used = next((value for name in _EXPERTS_USED if isinstance(value := getattr(config, name, None), int)), None)
    stacked = [each.shape[0] for each in _parameters(blueprint).values() if each.ndim == 3]
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
