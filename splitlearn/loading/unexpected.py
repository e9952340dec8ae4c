"""Tensors of a checkpoint that its model does not have: which are merely beside the model, and which speak for another.

A published checkpoint often holds more than its language model: layers that predict several tokens ahead, towers for images or
sound, an encoder, a pooler, a value head. transformers leaves all of that out, and so do we, but only where nothing that the
model needs is missing and nothing speaks for another architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from splitlearn.checkpoint import name_some
from splitlearn.model import Blueprint, count_layers
from splitlearn.naming import named

# A tensor of the checkpoint, and the model's tensors that it feeds.
Feeding = tuple[str, tuple[str, ...]]
# What is done with them: left out unless they speak for another model, never, or always.
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

    Raises:
        ValueError: it is not.
    """
    if value not in UNEXPECTED:
        raise ValueError(f"{named('unexpected_tensors')} is {value!r}; use one of {', '.join(UNEXPECTED)}")


def refused_names(blueprint: Blueprint, feedings: Sequence[Feeding], unexpected: Iterable[str], setting: str) -> list[str]:
    """Return which unexpected tensors the checkpoint must not be loaded with.

    With ``auto`` these are tensors within the model's own layers, tensors beside those of a module that the model has (a bias
    for its head), further layers that look like all others, and what could be a copy of a tensor that is not stored itself.

    Args:
        blueprint: the model.
        feedings: what of the checkpoint the model takes.
        unexpected: the names that it does not take.
        setting: one of `UNEXPECTED`.
    """
    if setting != "auto":
        return list(unexpected) if setting == "refuse" else []
    rule = _Rule(blueprint, feedings)
    return rule.refused(list(unexpected))


def describe_refusal(blueprint: Blueprint, names: Sequence[str], checkpoint: str) -> str:
    """Return in one sentence why a checkpoint is refused for tensors that its model does not have."""
    model = f"a {blueprint.config.model_type} model of {count_layers(blueprint.config)} layers"
    leave_out = f"{named('unexpected_tensors')}=leave_out"
    hint = hint_at_quantization(names) or f"; mend its config.json, or take it without them ({leave_out})"
    return f"{checkpoint} holds tensors that {model} does not have: {name_some(list(names))}{hint}"


def hint_at_quantization(names: Iterable[str]) -> str:
    """Return the end of a sentence about tensors whose names are those of quantized weights; nothing about others."""
    is_quantized = any(_QUANTIZED.search(name) for name in names)
    return "; these are quantized weights: name the checkpoint that they were made from" if is_quantized else ""


def describe_left_out(names: Sequence[str]) -> str:
    """Return how many tensors are left out, and the first of them."""
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
                # How the checkpoint itself calls the list of layers, and what is in one of them.
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
        # A layer that predicts ahead has projections and norms of its own; one without is a layer that the configuration lacks.
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
