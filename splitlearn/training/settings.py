"""How the parts of a model are trained, read from plain values once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from splitlearn.activations import CacheSettings
from splitlearn.adapters import AdapterSettings
from splitlearn.boundary import BoundaryCodecs, PrivacySettings, Route, noise_with_epsilon
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.defences import DefenceSettings
from splitlearn.loading import OpenedModel
from splitlearn.model import EMBEDDING_NOISE
from splitlearn.naming import named, naming_group
from splitlearn.training.compilation import compile_settings
from splitlearn.training.optimization import Optimization
from splitlearn.training.top_loss import LogitsLimit


@dataclass(frozen=True)
class TrainingSettings:
    """How the parts of a model are trained, wherever they are; whoever holds one part needs no others.

    Attributes:
        optimization: learning rates, decay and schedule, and which tensors of each part are trained.
        adapters: the adapters beside the weights; parts that are frozen have none.
        cache: whether and how to keep what frozen parts return.
        gradient_checkpointing: keep only the inputs of layers for the backward pass and compute the rest again.
        compile_layers: arguments of ``torch.compile`` for the decoder layers; None does not compile them.
        codecs: how what crosses the cuts is sent.
        defences: what is done so that it tells less about the text.
        privacy: how noise of which an epsilon is claimed is made and accounted for.
        max_logits_mib: how large a batch's logits may become in MiB before they are computed piece by piece; see `TopLoss`.
    """

    optimization: Optimization = field(default_factory=Optimization)
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    gradient_checkpointing: bool = False
    compile_layers: Mapping[str, Any] | None = None
    codecs: BoundaryCodecs = field(default_factory=BoundaryCodecs)
    defences: DefenceSettings = field(default_factory=DefenceSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    max_logits_mib: LogitsLimit = "auto"

    @classmethod
    def from_plain(
        cls,
        optimizer: Mapping[str, Any] | None = None,
        peft: Mapping[str, Any] | None = None,
        activation_cache: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        compile_layers: bool | Mapping[str, Any] | None = None,
        boundary: Mapping[str, Any] | str | None = None,
        defence: Mapping[str, Any] | None = None,
        privacy: Mapping[str, Any] | None = None,
        max_logits_mib: LogitsLimit = "auto",
    ) -> TrainingSettings:
        """Make them from the plain values that `SplitCausalLM` takes under these names.

        Where ``optimizer`` names no learning rate, parts with adapters take that of the adapters.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        with naming_group("optimizer"):
            optimization = Optimization.from_plain(optimizer or {})
        frozen = [name for name in PART_NAMES if optimization.of(name).is_frozen]
        with naming_group("peft"):
            adapters = AdapterSettings.from_plain(peft).without(frozen)
        if "learning_rate" not in (optimizer or {}):
            adapted = [name for name in PART_NAMES if adapters.adapts(name)]
            optimization = optimization.with_adapters(adapters.learning_rate, adapted)
        with naming_group("activation_cache"):
            cache = CacheSettings.from_plain(activation_cache)
        with naming_group("boundary"):
            codecs = BoundaryCodecs.from_plain(boundary)
        with naming_group("defence"):
            defences = DefenceSettings.from_plain(defence)
        with naming_group("privacy"):
            noise = PrivacySettings.from_plain(privacy)
        if defences.dchi is not None and cache.keep != "none":
            raise ValueError(
                f"activation_cache.keep is {cache.keep}, but defence.dchi draws new noise each time that a text is sent, which "
                "would be kept; take activation_cache=none"
            )
        compiled = compile_settings(compile_layers)
        return cls(optimization, adapters, cache, gradient_checkpointing, compiled, codecs, defences, noise, max_logits_mib)

    @property
    def trained(self) -> dict[str, PartTraining]:
        """Which tensors of each part are trained, as far as the settings say it."""
        return {name: self.settle(name, self.adapters.adapts(name)) for name in PART_NAMES}

    def noise_with_epsilon(self, routes: Sequence[Route]) -> frozenset[str]:
        """Return the names of the generators of noise for which an epsilon is claimed.

        Args:
            routes: which way data pass the cuts.
        """
        names = noise_with_epsilon(self.codecs, routes)
        return names if self.defences.dchi is None else names | {EMBEDDING_NOISE}

    def settle(self, name: str, has_adapters: bool) -> PartTraining:
        """Return which tensors of a part are trained.

        Args:
            name: the part's name.
            has_adapters: whether it has adapters; settings may ask for some that fit none of its modules.
        """
        return PartTraining.settle(self.optimization.of(name).train, has_adapters, self.adapters.method is not None)


def plain_request(opened: OpenedModel) -> dict[str, Any]:
    """Return, as plain values, the arguments of `SplitCausalLM` that say which model it is and in which form.

    Args:
        opened: the model, cut.
    """
    request, plan = opened.request, opened.plan
    return {
        "model_name_or_path": str(request.name_or_path),
        "split_point_1": plan.split_point_1,
        "split_point_2": plan.split_point_2,
        "model_type": request.model_type,
        "revision": request.revision,
        "dtype": None if request.dtype is None else str(request.dtype).removeprefix("torch."),
        "quantization": request.quantization,
        "unexpected_tensors": request.unexpected_tensors,
        "untie": request.untie,
    }


def parse_dtype(name: str | None) -> torch.dtype | None:
    """Return the floating-point dtype of that name, None for None.

    Args:
        name: torch's name of it.

    Raises:
        ValueError: torch has no floating-point dtype of that name.
    """
    if name is None:
        return None
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{named('dtype')} is {name!r}; use float32, bfloat16 or float16, or null to keep the checkpoint's")
    return dtype
