"""What two parties must agree on before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from splitlearn.cut import PART_NAMES
from splitlearn.loading import OpenedModel
from splitlearn.parties.protocol import party_pb2 as pb
from splitlearn.training import TrainingSettings

# Of a configuration: where it was read, and which release wrote it, says nothing of the model.
_BESIDE_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation")
# Compared only if both sides have one: a server with one client has none, and most clients do not mind.
_ORDER = "order"
_COMPARED = {
    "part": "the part",
    "config_digest": "the model's configuration",
    "num_layers": "the number of layers",
    "split_point_1": "split.point_1",
    "split_point_2": "split.point_2",
    "dtype": "the dtype of the part",
    "training": "what of the part is trained",
    "autocast": "the precision",
}


def title_of(parts: Sequence[str]) -> str:
    """Return what messages call some parts after "the"."""
    return " and ".join(parts)


def make_plan(opened: OpenedModel, settings: TrainingSettings, dtypes: Mapping[str, torch.dtype]) -> pb.Plan:
    """Return what this party thinks of the parts that one party holds, and how they are trained.

    Args:
        opened: the model, cut.
        settings: how all parts are trained.
        dtypes: of the weights of each part, by the part's name.
    """
    plan, parts = opened.plan, list(dtypes)
    places = [PART_NAMES.index(part) for part in parts]
    told: dict[str, Any] = {}
    for part in parts:
        told |= _settings_of(settings, part) | _form_of(opened, settings, part)
    if PART_NAMES[-1] in parts:
        told["max_logits_mib"] = settings.max_logits_mib
    return pb.Plan(
        part=title_of(parts),
        model_name=str(opened.request.name_or_path),
        config_digest=_config_digest(opened),
        split_point_1=plan.split_point_1,
        split_point_2=plan.split_point_2,
        num_layers=plan.num_layers,
        dtype=" / ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes.values())),
        training=" / ".join(dict.fromkeys(settings.trained[part].value for part in parts)),
        settings=json.dumps(told, sort_keys=True),
        cuts=[
            pb.CutPlan(name=name, **words)
            for name, words in settings.codecs.to_dict().items()
            if int(name[-1]) in (places[0], places[-1] + 1)
        ],
    )


def with_order(plan: pb.Plan, order: str | None) -> pb.Plan:
    """Return a plan that says in which order several clients train the parts.

    Args:
        plan: without an order.
        order: None leaves it as it is: this party does not mind, or there is one client.
    """
    if order is None:
        return plan
    ordered = pb.Plan()
    ordered.CopyFrom(plan)
    ordered.settings = json.dumps(json.loads(plan.settings) | {_ORDER: order}, sort_keys=True)
    return ordered


def difference(own: pb.Plan, other: pb.Plan, party: str, here: str) -> str | None:
    """Return in one sentence how two plans differ; None if they agree.

    Args:
        own: this party's.
        other: the other's.
        party: how the sentence names the other party.
        here: how it names this one.
    """
    for name, words in _COMPARED.items():
        mine, theirs = getattr(own, name), getattr(other, name)
        if mine != theirs:
            return _sentence(words, mine, theirs, party, here)
    # A client cannot know the weights that it has not read, so it says nothing of them unless a checkpoint does.
    if own.model_digest and other.model_digest and own.model_digest != other.model_digest:
        return f"{party} has other weights of the {own.part} than are expected {here}; both must begin from one checkpoint"
    mine, theirs = json.loads(own.settings), json.loads(other.settings)
    for name in sorted({*mine, *theirs} if _ORDER in mine and _ORDER in theirs else {*mine, *theirs} - {_ORDER}):
        if mine.get(name) != theirs.get(name):
            return _sentence(name, mine.get(name), theirs.get(name), party, here)
    for one, two in zip(own.cuts, other.cuts, strict=False):
        for way in ("forward", "backward"):
            if getattr(one, way) != getattr(two, way):
                return _sentence(f"boundary.{one.name}.{way}", getattr(one, way), getattr(two, way), party, here)
    return None if len(own.cuts) == len(other.cuts) else f"{party} and {here} cut the model at different places"


def _sentence(words: str, mine: Any, theirs: Any, party: str, here: str) -> str:
    return f"{words} is {mine!r} {here}, but {theirs!r} with {party}; both must have the same settings"


def _settings_of(settings: TrainingSettings, part: str) -> dict[str, Any]:
    own, optimization = settings.optimization.of(part), settings.optimization
    decay = optimization.weight_decay if own.weight_decay is None else own.weight_decay
    rate = optimization.learning_rate if own.learning_rate is None else own.learning_rate
    values: dict[str, Any] = {"optimizer.betas": list(optimization.betas)}
    if settings.trained[part].trains_anything:
        values |= {f"optimizer.parts.{part}.weight_decay": decay, f"optimizer.parts.{part}.learning_rate": rate}
    if settings.adapters.adapts(part):
        differing = settings.adapters.parts.get(part)
        own_settings = differing if isinstance(differing, Mapping) else {}
        values[f"peft of the {part}"] = {"method": settings.adapters.method, **settings.adapters.settings, **own_settings}
    return values


def _form_of(opened: OpenedModel, settings: TrainingSettings, part: str) -> dict[str, Any]:
    """Return how the part's weights are held, beside their dtype."""
    quantization = opened.request.quantization
    is_quantized = quantization is not None and not settings.trained[part].trains_weights
    return {"model.quantization": quantization} if is_quantized else {}


def _config_digest(opened: OpenedModel) -> str:
    config = json.loads(opened.config.to_json_string(use_diff=False))
    plain = {name: value for name, value in config.items() if name not in _BESIDE_THE_MODEL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
