"""Tensors of a checkpoint that its model does not have: some merely lie beside the model, others are signs of another model.

A published checkpoint often holds more than its language model: layers that predict several tokens ahead, towers for images or
sound, an encoder, a pooler, a value head. transformers leaves all of that out, and so do we, but only where the model lacks
nothing and no tensor is a sign of another architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from splitlearn.checkpoint import name_some
from splitlearn.model import Blueprint, count_layers
from splitlearn.naming import named

# A tensor of the checkpoint, and the model's tensors that it feeds.
Feeding = tuple[str, tuple[str, ...]]
# Left out unless they are signs of another model; never left out; always left out.
UNEXPECTED = ("auto", "refuse", "leave_out")
# Buffers within layers that older code stored and newer code computes.
_STORED_BUFFERS = re.compile(r"rotary\w*\.(inv_freq|(cos|sin)(_cached)?)$|\.(attn|attention|self_attn)\.(causal_)?mask$")
# How configurations count the layers that predict several tokens ahead.
_LAYERS_AHEAD = re.compile(r"nextn|mtp")
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|absmax|quant_map|weight_scale(_inv)?|weight_packed|\w*_blocks|SCB)\b|quant_state"
)


def check_unexpected_setting(value: str) -> None:
    """Refuse a setting that is none of `UNEXPECTED`.

    Args:
        value: the setting.

    Raises:
        ValueError: it is none of them.
    """
    if value not in UNEXPECTED:
        raise ValueError(f"{named('unexpected_tensors')} is {value!r}; use one of {', '.join(UNEXPECTED)}")


def refused_names(blueprint: Blueprint, feedings: Sequence[Feeding], unexpected: Iterable[str], setting: str) -> list[str]:
    """Return the unexpected tensors for which a checkpoint is refused.

    With ``auto`` these are tensors within the model's own layers, tensors beside those of a module that the model has (a bias
    for its head), further layers that look like all others, and possible copies of a tensor that is not stored itself.

    Args:
        blueprint: the model.
        feedings: the checkpoint's tensors that the model takes, with the tensors that they feed.
        unexpected: names of the tensors that it does not take.
        setting: one of `UNEXPECTED`.

    Returns:
        Names from ``unexpected``.
    """
    if setting != "auto":
        return list(unexpected) if setting == "refuse" else []
    rule = _Rule(blueprint, feedings)
    return rule.refused(list(unexpected))


def describe_refusal(blueprint: Blueprint, names: Sequence[str], checkpoint: str) -> str:
    """Return in one sentence why a checkpoint is refused for tensors that its model does not have.

    Args:
        blueprint: the model.
        names: the tensors.
        checkpoint: the checkpoint's name.
    """
    model = f"a {blueprint.config.model_type} model of {count_layers(blueprint.config)} layers"
    leave_out = f"{named('unexpected_tensors')}=leave_out"
    hint = hint_at_quantization(names) or f"; mend its config.json, or take it without them ({leave_out})"
    return f"{checkpoint} holds tensors that {model} does not have: {name_some(list(names))}{hint}"


def hint_at_quantization(names: Iterable[str]) -> str:
    """Return the end of a sentence about tensors whose names are those of quantized weights; empty for others.

    Args:
        names: names of the tensors.
    """
    is_quantized = any(_QUANTIZED.search(name) for name in names)
    return "; these are quantized weights: name the checkpoint that they were made from" if is_quantized else ""


def describe_left_out(names: Sequence[str]) -> str:
    """Return a phrase with the number of tensors that are left out, and the first of them.

    Args:
        names: names of the tensors.
    """
    return f"left out {len(names)} tensor{'s' * (len(names) > 1)} that the model does not have: {name_some(list(names), 3)}"


class _Rule:
    def __init__(self, blueprint: Blueprint, feedings: Sequence[Feeding]) -> None:
        self._num_layers = count_layers(blueprint.config)
        self._layers_ahead = _count_layers_ahead(blueprint)
        self._prefixes: set[str] = set()
        self._in_layers: set[str] = set()
        self._modules: set[str] = set()
        fed = {target for _, targets in feedings for target in targets}
        self._not_stored = [name for name in blueprint.meta_model.state_dict() if name not in fed]
        self._modules.update(_module_of(name) for name in self._not_stored)
        for source, targets in feedings:
            layer = blueprint.layer_of(targets[0])
            place = None if layer is None else re.search(rf"(?:^|\.){layer}\.", source)
            if place is None:
                self._modules.add(_module_of(source))
            else:
                # The checkpoint's own name of the list of layers, and the names within one layer.
                self._prefixes.add(source[: place.start()])
                self._in_layers.add(source[place.end() :])

    def refused(self, names: list[str]) -> list[str]:
        further: dict[int, list[str]] = {}
        refused = []
        for name in names:
            layer, rest = self._layer_of(name)
            if layer is not None and layer >= self._num_layers + self._layers_ahead:
                further.setdefault(layer, []).append(rest)
            elif layer is not None and layer < self._num_layers:
                refused += [] if _STORED_BUFFERS.search(name) else [name]
            elif layer is None and (_module_of(name) in self._modules or self._may_be_needed(name)):
                refused.append(name)
        # A layer that predicts ahead has extra projections and norms; a further layer without them belongs to a deeper model.
        plain = {layer for layer, rests in further.items() if self._in_layers.issuperset(rests)}
        return refused + [name for name in names if self._layer_of(name)[0] in plain]

    def _layer_of(self, name: str) -> tuple[int | None, str]:
        for prefix in self._prefixes:
            head = f"{prefix}." if prefix else ""
            number, _, rest = name[len(head) :].partition(".")
            if name.startswith(head) and number.isdecimal():
                return int(number), rest
        return None, name

    def _may_be_needed(self, name: str) -> bool:
        return any(name.endswith(f".{needed}") for needed in self._not_stored)


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _count_layers_ahead(blueprint: Blueprint) -> int:
    """Return how many layers after the last the configuration announces."""
    settings = blueprint.config.get_text_config(decoder=True).to_dict()
    counts = [value for name, value in settings.items() if _LAYERS_AHEAD.search(name) and type(value) is int]
    return max(counts, default=0)
