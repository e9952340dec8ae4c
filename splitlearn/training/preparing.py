"""From loaded parts to parts that can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from splitlearn.adapters import add_adapters, check_layers_run, unsplit_config
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.model import SplitModel, Tie, find_ties, is_quantized, keep_trainable, part_digest
from splitlearn.naming import naming_group
from splitlearn.randomness import NamedGenerators
from splitlearn.training.compilation import checkpoint_layers, compile_layers
from splitlearn.training.settings import TrainingSettings
from splitlearn.training.trainable import mark_trainable


@dataclass(frozen=True, eq=False)
class PreparedParts:
    """Parts that are ready to be trained.

    Attributes:
        parts: the parts, in the order in which data passes them.
        trained: for each of them which of its tensors are trained. A part that was to have adapters is frozen if they fit none
            of its modules.
        base_weights: for each part that is not trained in full a digest of its weights in the base checkpoint.
        ties: ties whose ends are two trained tensors, as on two devices; their gradients belong together.
    """

    parts: tuple[SplitModel, ...] = ()
    trained: Mapping[str, PartTraining] = field(default_factory=dict)
    base_weights: Mapping[str, str] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()


def prepare_parts(
    parts: Sequence[SplitModel], settings: TrainingSettings, generators: NamedGenerators | None = None
) -> PreparedParts:
    """Give parts their adapters, mark what is trained, and set how their layers run. The parts themselves are changed.

    Weights keep the dtype in which they were loaded.

    Args:
        parts: some or all parts of one model, in the order in which data passes them.
        settings: how all parts of the model are trained.
        generators: what adapters draw their initial values from, each part's under its name; None takes torch's default
            generators.

    Returns:
        The same parts, with what is known of them now.

    Raises:
        ValueError: adapters or a choice of tensors do not fit a part, or its layers cannot be checkpointed.
    """
    planned = settings.trained
    # Some adapters change the weights beside them, so the digests come first.
    base = {part.spec.name: part_digest(part) for part in parts if not planned[part.spec.name].trains_all_weights}
    added = _add_adapters(parts, settings, generators)
    trained = {part.spec.name: settings.settle(part.spec.name, bool(added.get(part.spec.name))) for part in parts}
    for part in parts:
        mark_trainable(part, trained[part.spec.name], added.get(part.spec.name, ()))
        keep_trainable(part)
    if settings.gradient_checkpointing:
        checkpoint_layers([part for part in parts if _gets_gradients(part, planned | trained)])
    if settings.compile_layers is not None:
        compile_layers(parts, settings.compile_layers)
    ties = tuple(tie for tie in find_ties(parts) if not tie.is_shared and tie.parameters[0].requires_grad)
    return PreparedParts(tuple(parts), trained, base, ties)


def _add_adapters(
    parts: Sequence[SplitModel], settings: TrainingSettings, generators: NamedGenerators | None
) -> dict[str, list[nn.Parameter]]:
    with naming_group("peft"):
        added = add_adapters(parts, settings.adapters, generators)
        if added:
            # Adapters that could not be saved in the end are refused here.
            unsplit_config(parts, settings.adapters)
    if added and any(is_quantized(parameter) for part in parts for parameter in part.parameters()):
        check_layers_run(parts)
    return added


def _gets_gradients(part: SplitModel, trained: Mapping[str, PartTraining]) -> bool:
    """Whether the backward pass reaches a part: it, or a part below it, has something that is trained."""
    return any(trained[name].trains_anything for name in PART_NAMES[: PART_NAMES.index(part.spec.name) + 1])
