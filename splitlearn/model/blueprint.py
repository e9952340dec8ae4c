"""A causal LM without its weights: its class, its structure, and which tensor belongs to which part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from splitlearn.cut import CutError, PartSpec, SplitPlan
from splitlearn.model.anatomy import Anatomy, count_layers, examine
from splitlearn.model.recorded_outputs import refuse_choice_of_layers
from splitlearn.model.refusals import UnsupportedModelError

# Keys of a configuration that are ignored when two models are compared: transformers notes them beside the model.
_NOTES = ("_name_or_path", "architectures", "dtype", "transformers_version")


def plan_cut(config: PreTrainedConfig, split_point_1: int, split_point_2: int) -> SplitPlan:
    """Check two split points against a model's configuration.

    Args:
        config: the unsplit model's configuration.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top.

    Returns:
        The cut.

    Raises:
        CutError: they do not cut this model.
        UnsupportedModelError: the configuration does not say how many layers there are.
    """
    return SplitPlan(count_layers(config), split_point_1, split_point_2)


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a part's weights are from.

    Attributes:
        model: a hub id, or the path of a local folder.
        commit: the hub's commit; None for a local folder.
    """

    model: str
    commit: str | None

    def __str__(self) -> str:
        return f"{self.model} at {self.commit}" if self.commit else self.model


@dataclass(frozen=True)
class Blueprint:
    """The structure of one causal LM, known without any weights.

    Attributes:
        config: the unsplit model's configuration.
        model_class: the transformers class of the causal LM.
        anatomy: where its layers are and which modules stand around them.
        dtype: the dtype in which its floating-point weights are held, or will be loaded.
        meta_model: the whole model on the meta device, for its names and shapes.
        ties: parameter names that share another parameter's tensor, for example the head's that of the embedding.
        unsettled_ties: those of ``ties`` that the checkpoint stores under both names, perhaps with different values, and that
            were not compared because no part with the other end was to be loaded.
        generation_config: generation settings of the checkpoint's authors; None leaves that to transformers.
        origin: the checkpoint it describes; None if that is not known.
        untied: ties of the checkpoint's configuration that were given up on demand, as in ``ties``. The two are parameters of
            their own; one that the checkpoint does not store begins as a copy of the other.
    """

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    anatomy: Anatomy
    dtype: torch.dtype
    meta_model: PreTrainedModel
    ties: dict[str, str]
    generation_config: GenerationConfig | None = None
    origin: Origin | None = None
    unsettled_ties: frozenset[str] = frozenset()
    untied: dict[str, str] = field(default_factory=dict)

    def check(self, plan: SplitPlan) -> None:
        """Refuse a cut that leaves nothing for smashed data to enter, and a configuration that asks for chosen layers' outputs.

        Args:
            plan: the cut.

        Raises:
            CutError: the top has no layer, and the head follows the last layer directly.
            ValueError: the configuration asks for hidden states or attentions of chosen layers.
        """
        refuse_choice_of_layers(self.anatomy.base(self.meta_model).config, {})
        if plan.split_point_2 == plan.num_layers and not self.anatomy.after_in_base:
            raise CutError(
                f"split_point_2 is {plan.split_point_2}, but the head of {self.model_class.__name__} follows its last layer "
                f"directly, so the top needs a layer: choose at most {plan.num_layers - 1}"
            )

    @property
    def tensor_names(self) -> set[str]:
        """The names of the unsplit model's parameters and of all its buffers."""
        parameters = self.meta_model.named_parameters(remove_duplicate=False)
        return {name for name, _ in parameters} | {name for name, _ in self.meta_model.named_buffers()}

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a parameter that the model ties to others.

        Args:
            name: one of its names in the unsplit model.
        """
        owner = self.ties.get(name, name)
        return [alias for alias in (owner, *(tied for tied, other in self.ties.items() if other == owner)) if alias != name]

    @property
    def _layer_prefix(self) -> str:
        return f"{self.anatomy.layers_path}."

    def layer_of(self, name: str) -> int | None:
        """Return the number of the decoder layer that holds a tensor, or None outside the layers.

        Args:
            name: the tensor's name in the unsplit model.
        """
        if not name.startswith(self._layer_prefix):
            return None
        return int(name[len(self._layer_prefix) :].split(".", 1)[0])

    def belongs_to(self, name: str, part: PartSpec) -> bool:
        """Whether a part holds a tensor.

        Args:
            name: the tensor's name in the unsplit model.
            part: the part.
        """
        layer = self.layer_of(name)
        if layer is not None:
            return part.start <= layer < part.end
        is_after = any(name.startswith(f"{path}.") for path in self.anatomy.after_layers)
        return part.has_head if is_after else part.has_embedding

    def local_name(self, name: str, part: PartSpec) -> str:
        """Return a tensor's name inside a part, where layers are numbered from the part's first.

        Args:
            name: the tensor's name in the unsplit model.
            part: a part that holds it.
        """
        return self._renumbered(name, -part.start)

    def global_name(self, name: str, part: PartSpec) -> str:
        """Return a tensor's name in the unsplit model.

        Args:
            name: the tensor's name inside the part.
            part: the part.
        """
        return self._renumbered(name, part.start)

    def _renumbered(self, name: str, offset: int) -> str:
        layer = self.layer_of(name)
        if layer is None:
            return name
        rest = name[len(self._layer_prefix) :].split(".", 1)[1]
        return f"{self._layer_prefix}{layer + offset}.{rest}"


def compare_blueprints(one: Blueprint, other: Blueprint) -> list[str]:
    """Return how two blueprints differ, one phrase for each difference; empty if parts of both can make one model.

    Args:
        one: the first blueprint, named first in the phrases.
        other: the second.
    """
    differences = []
    is_one_checkpoint = one.origin is not None and one.origin == other.origin
    if one.origin is not None and other.origin is not None and not is_one_checkpoint:
        differences.append(f"they are from {one.origin} and {other.origin}")
    # Trained parts may be held in float32 beside others in the stored dtype.
    if one.dtype != other.dtype and torch.float32 not in (one.dtype, other.dtype):
        differences.append(f"their dtypes are {_short(one.dtype)} and {_short(other.dtype)}")
    configs = [one.config, other.config]
    if is_one_checkpoint:
        # Loading a part that holds neither end of a tie does not compare the stored ends, so its configuration may still say
        # tied where another part's says untied.
        configs = [untie(config) for config in configs]
    return differences + compare_configs(configs[0].to_dict(), configs[1].to_dict())


def compare_ties(one: Blueprint, other: Blueprint) -> list[str]:
    """Return which tensors are tied in one blueprint and separate in the other, one phrase for each.

    Ties that loading left unsettled are skipped: they are compared once both ends are there.

    Args:
        one: the first blueprint.
        other: the second.
    """
    settled = [blueprint.ties.keys() - blueprint.unsettled_ties for blueprint in (one, other)]
    differing = (settled[0] - other.ties.keys()) | (settled[1] - one.ties.keys())
    return [f"{name} is tied in one of them and a parameter of its own in the other" for name in sorted(differing)]


def untie(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a copy of a configuration that ties no head to an embedding.

    Args:
        config: the configuration; it is left as it is.
    """
    untied = copy.deepcopy(config)
    untied.get_text_config(decoder=True).tie_word_embeddings = False
    untied.tie_word_embeddings = False
    return untied


def compare_configs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return how two configurations describe different models, one phrase for each difference.

    Args:
        one: a configuration as plain values, from ``to_dict``.
        other: the other.
    """
    names = sorted((one.keys() | other.keys()) - set(_NOTES))
    return [f"{name} is {one.get(name)} and {other.get(name)}" for name in names if _differ(one.get(name), other.get(name))]


def _differ(one: Any, other: Any) -> bool:
    # NaN is unequal to itself, so values with equal text count as equal.
    return bool(one != other) and repr(one) != repr(other)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def draw_blueprint(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    generation_config: GenerationConfig | None = None,
    origin: Origin | None = None,
) -> Blueprint:
    """Build a causal LM on the meta device and examine it; nothing is read or allocated.

    Args:
        config: the unsplit model's configuration.
        dtype: the dtype in which its floating-point weights are held, or will be loaded.
        generation_config: generation settings of the checkpoint's authors.
        origin: the checkpoint it describes.

    Returns:
        The structure, with the names and shapes of all tensors.

    Raises:
        UnsupportedModelError: transformers cannot build the model, or it has no layers that can be cut.
    """
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except Exception as error:
        # Model classes raise all kinds of exceptions for a configuration that they cannot build.
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(
            f"transformers cannot build a causal LM from this {config.model_type} configuration: {reason}"
        ) from error
    return Blueprint(
        config=config,
        model_class=type(model),
        anatomy=examine(model),
        dtype=dtype,
        meta_model=model,
        ties=dict(model.all_tied_weights_keys or {}),
        generation_config=generation_config,
        origin=origin,
    )
