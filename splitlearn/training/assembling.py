"""From an opened model to one that can be trained: its parts, its loss and its steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from splitlearn.boundary import find_routes
from splitlearn.cut import PART_NAMES, PartTraining, Placement
from splitlearn.loading import OpenedModel
from splitlearn.memory import MemoryTracker
from splitlearn.model import ComposedCausalLM, SplitModel
from splitlearn.randomness import NamedGenerators
from splitlearn.training.frozen_parts import FrozenParts
from splitlearn.training.load_parts import load_for_training
from splitlearn.training.loss import SplitLoss
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.preparing import PreparedParts, prepare_parts
from splitlearn.training.settings import TrainingSettings
from splitlearn.training.step_owner import StepOwner

_TRUNK = "trunk"


@dataclass(frozen=True, eq=False)
class TrainableModel:
    """A cut model that is ready to be trained.

    Attributes:
        composed: all parts, in training mode.
        prepared: the parts that are here.
        trained: which tensors of each part are trained, by the part's name.
        loss: goes from a batch to its loss.
        step: does what belongs to an optimizer step.
    """

    composed: ComposedCausalLM
    prepared: PreparedParts
    trained: Mapping[str, PartTraining]
    loss: SplitLoss
    step: StepOwner


def load_trainable(
    opened: OpenedModel,
    settings: TrainingSettings,
    placement: Placement,
    generators: NamedGenerators,
    elsewhere: Mapping[str, PartElsewhere],
    *,
    num_microbatches: int,
    low_memory: bool,
    verbose: bool,
    tracker: MemoryTracker,
    beside: TrainableModel | None = None,
) -> TrainableModel:
    """Load the parts that are here, prepare them for training, and connect them with those elsewhere.

    Args:
        opened: the model, cut; it was opened for the parts that are here.
        settings: how all parts are trained.
        placement: who holds which part on which device.
        generators: what parts and boundaries draw random numbers from.
        elsewhere: the other parts, by name.
        num_microbatches: into how many a training batch is divided.
        low_memory: load part by part rather than the whole model first.
        verbose: print what is loaded and what it costs.
        tracker: records memory after each part.
        beside: another client's model, whose trunk and whose meter this one shares; ``opened`` is then for the others.

    Raises:
        ValueError: the model cannot be trained so, or the checkpoint, cut or devices are unusable.
        FileNotFoundError: the checkpoint is not there.
    """
    loaded = load_for_training(
        opened,
        settings.trained,
        placement,
        low_memory=low_memory,
        verbose=verbose,
        tracker=tracker,
        # In a log file a bar is hundreds of lines.
        shows_bars=sys.stderr.isatty(),
    )
    prepared = prepare_parts(list(loaded.parts.values()), settings, generators)
    digests = {name: part.base_digest for name, part in elsewhere.items() if part.base_digest is not None}
    prepared = replace(prepared, base_weights={**prepared.base_weights, **digests})
    trained = {**settings.trained, **prepared.trained}
    if beside is not None:
        prepared, trained = _with_trunk_of(prepared, beside), {**trained, _TRUNK: beside.trained[_TRUNK]}
    parts = {part.spec.name: part for part in prepared.parts} | cast(dict[str, SplitModel], dict(elsewhere))
    composed = ComposedCausalLM(
        *(parts[name] for name in PART_NAMES),
        routes=find_routes(placement),
        generators=generators,
        codecs=settings.codecs,
        meter=None if beside is None else beside.composed.meter,
    ).train()
    frozen_parts = FrozenParts(settings.cache, trained, composed, opened.request.quantization)
    step = StepOwner(prepared.parts, prepared.ties, {name: part.owner for name, part in elsewhere.items()})
    loss = SplitLoss(composed, frozen_parts, settings.max_logits_mib, num_microbatches)
    return TrainableModel(composed, prepared, trained, loss, step)


def _with_trunk_of(prepared: PreparedParts, beside: TrainableModel) -> PreparedParts:
    bottom, top = prepared.parts
    return replace(prepared, parts=(bottom, beside.composed.trunk, top))
