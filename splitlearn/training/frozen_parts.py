"""Running the frozen parts at the bottom of a model, or taking what they returned before.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch

from splitlearn.activations import ActivationCache, CacheSettings
from splitlearn.boundary import CallKind, Handover, Parcel
from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.memory import GIB
from splitlearn.model import ComposedCausalLM, digest
from splitlearn.naming import naming_group

Batch = dict[str, torch.Tensor]


@runtime_checkable
class NumberedRows(Protocol):
    """Data whose batches say which rows of the data set they are of, as ``row`` (B)."""

    def num_rows(self, name: str) -> int:
        """Return how many rows the data set ``name`` has, ``"train"`` or ``"val"``."""

    def digest(self, name: str) -> str:
        """Return a digest of all that decides what a model makes of each of the data set's rows."""


class FrozenParts:
    """The frozen parts that all data pass first, and what they return, kept for each row.

    Args:
        settings: whether and how to keep it.
        trained: what of each part is trained.
        composed: the model.
        quantization: plain settings of how frozen weights are quantized.

    Raises:
        ValueError: something is to be kept, but bottom is trained, or the model returns more at a cut than smashed data.
    """

    def __init__(
        self, settings: CacheSettings, trained: Mapping[str, PartTraining], composed: ComposedCausalLM, quantization: Any = None
    ) -> None:
        self._settings = settings
        self._composed = composed
        self._quantization = quantization
        self._caches: dict[str, ActivationCache] = {}
        self.number = next((index for index, name in enumerate(PART_NAMES) if trained[name].trains_anything), len(PART_NAMES))
        # The top returns logits and not smashed data; what a part elsewhere returns has crossed a cut already.
        self.number = min(self.number, len(PART_NAMES) - 1, *(n for n, part in enumerate(composed.parts) if part.is_elsewhere))
        # Fraction of the last batch's rows that the frozen parts were run on; the others were kept.
        self.share_run = 1.0
        if settings.keep == "none":
            return
        if self.number == 0:
            raise ValueError(
                f"activation_cache.keep is {settings.keep}, but bottom is trained, so what it returns changes with every step; "
                "freeze it with optimizer.parts.bottom.train=false (and with adapters peft.parts.bottom=false)"
            )
        if getattr(composed.top.config.get_text_config(decoder=True), "output_router_logits", False):
            raise ValueError(
                "a router loss needs what the routers of frozen parts return, which is not kept; take activation_cache=none, "
                "or a configuration without output_router_logits"
            )

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._settings.keep != "none"

    def run(self, batch: Batch, name: str, data: object, arguments: Mapping[str, Any], kind: CallKind) -> Handover:
        """Return what the frozen parts make of a batch, without gradients, before it crosses the cut above them.

        Args:
            batch: ``input_ids`` (B, T) and ``row`` (B).
            name: which data set it is of.
            data: the data.
            arguments: what else the parts take, with B rows.
            kind: what the call is for.

        Raises:
            ValueError: the data do not number their rows.
        """
        if not isinstance(data, NumberedRows) or "row" not in batch:
            raise ValueError(
                "only blocks of one length, with numbered rows, can be kept; take activation_cache=none, or packing=joined or "
                "isolated without streaming"
            )
        if name not in self._caches:
            self._caches[name] = self._open(name, data)

        self.share_run = 0.0

        def compute(places: torch.Tensor, is_trial: bool) -> torch.Tensor:
            self.share_run = len(places) / len(batch["row"])
            chosen = places.to(batch["input_ids"].device)
            rows = {key: value[chosen] for key, value in arguments.items()}
            called_for = CallKind.TRIAL if is_trial else kind
            handover = self._composed.run(batch["input_ids"][chosen], 0, self.number, kind=called_for, **rows)
            return cast(Handover, handover).parcel.hidden_BTD

        with naming_group("activation_cache"):
            hidden_BTD = self._caches[name].fetch(batch["row"].cpu(), compute)
        return Handover(Parcel(hidden_BTD, **arguments))

    def _open(self, name: str, data: NumberedRows) -> ActivationCache:
        bottom = self._composed.bottom
        blueprint = bottom.blueprint
        key: dict[str, Any] = {
            "model": str(blueprint.origin),
            "config": blueprint.config.to_json_string(use_diff=False),
            "dtype": str(blueprint.dtype),
            "quantization": self._quantization,
            "attention": str(blueprint.config._attn_implementation),
            "layers": self._composed.parts[self.number - 1].spec.end,
            "autocast": torch.is_autocast_enabled(bottom.device.type),
        }
        if self._settings.keep == "disk":
            # Rows on disk outlive the run, so the key must tell weights and data apart.
            frozen = self._composed.parts[: self.number]
            key["weights"] = digest(tensor for part in frozen for tensor in part.named_tensors().items())
            key["data"] = data.digest(name)
        room_bytes = int(self._settings.max_gib * GIB) - sum(cache.num_bytes for cache in self._caches.values())
        return ActivationCache(self._settings, data.num_rows(name), key, max_bytes=max(room_bytes, 0))
