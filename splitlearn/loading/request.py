"""A request says which model to open and how to cut it; opening it reads configuration, structure and index once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from splitlearn.checkpoint import CheckpointSource
from splitlearn.cut import PART_NAMES, CutError, PartSpec, Placement, SplitPlan, check_part_names
from splitlearn.loading.configuration import read_config_of
from splitlearn.loading.devices import devices_of
from splitlearn.loading.dtypes import loaded_dtype
from splitlearn.loading.load_model import Narrator, load_incrementally, load_whole
from splitlearn.loading.loaded_parts import LoadedParts
from splitlearn.loading.opening import OpenedCheckpoint
from splitlearn.loading.part_loader import PartLoader
from splitlearn.loading.quantization import quantization_config, quantization_settings
from splitlearn.loading.unexpected import check_unexpected_setting
from splitlearn.memory import MemoryTracker
from splitlearn.model import Blueprint, plan_cut

# Attributes of a request that say which checkpoint it is: with other values it has to be opened anew.
_WHICH_CHECKPOINT = ("name_or_path", "revision", "model_type", "unexpected_tensors", "untie")


@dataclass(frozen=True)
class ModelRequest:
    """Which model to open, where to cut it, and in which form to load its weights.

    Attributes:
        name_or_path: a local folder or a hub id.
        split_point_1: first layer of the trunk; None leaves the cut open, as `split_point_2` does.
        split_point_2: first layer of the top.
        model_type: the architecture that the checkpoint must have, as transformers names it; None accepts any.
        revision: branch, tag or commit of a hub's repository; None is its main branch.
        dtype: dtype of floating-point weights; None takes the configuration's, or else that of the stored weights.
        quantization: how the linear layers of parts that are not trained are quantized while they are loaded; see
            `quantization_config`. None leaves them as they are.
        unexpected_tensors: treatment of tensors that the model does not have: ``"auto"`` leaves them out unless they are signs
            of another model, ``"refuse"`` refuses them all, ``"leave_out"`` none.
        in_float32: parts whose floating-point weights become float32 in any case. A tied head goes with its embedding.
        untie: make tied tensors, such as head and embedding, separate parameters: the two begin with equal values, and may lie
            with different parties.

    Raises:
        ValueError: ``in_float32`` names a part that does not exist, or ``quantization`` or ``unexpected_tensors`` is unknown.
            The message begins with the attribute's name.
    """

    name_or_path: str | Path
    split_point_1: int | None = None
    split_point_2: int | None = None
    model_type: str | None = None
    revision: str | None = None
    dtype: torch.dtype | None = None
    quantization: str | Mapping[str, Any] | None = None
    unexpected_tensors: str = "auto"
    in_float32: Collection[str] = ()
    untie: bool = False

    def __post_init__(self) -> None:
        check_part_names(self.in_float32, "in_float32")
        check_unexpected_setting(self.unexpected_tensors)
        if self.quantization is not None:
            quantization_settings(self.quantization)

    def open(self, parts: Collection[str] = PART_NAMES) -> OpenedModel:
        """Read the configuration and check the cut. Structure and index are read when they are first needed, and only once.

        Args:
            parts: the parts that may be loaded; no other part's shards are opened or downloaded.

        Returns:
            The opened model, from which parts are loaded.

        Raises:
            CutError: the split points do not cut this model.
            ValueError: a part's name is unknown, or the model type is another.
            FileNotFoundError: there is no such model.
        """
        names = check_part_names(parts, "parts")
        source = CheckpointSource(self.name_or_path, self.revision)
        config = read_config_of(source, self.model_type)
        opened = OpenedModel(self, OpenedCheckpoint(config, source, self.unexpected_tensors, self.untie), names)
        if opened.is_cut:
            _ = opened.plan
        return opened


class OpenedModel:
    """A requested model whose files are known; all that is read of it is read once and kept.

    `ModelRequest.open` makes it.

    Args:
        request: which model it is.
        checkpoint: its checkpoint.
        names: the parts that may be loaded.
    """

    def __init__(self, request: ModelRequest, checkpoint: OpenedCheckpoint, names: Sequence[str]) -> None:
        self.request = request
        self._checkpoint = checkpoint
        self._names = tuple(names)
        self._loaders: dict[torch.dtype, PartLoader] = {}
        self._has_settled_ties = False

    @property
    def config(self) -> PreTrainedConfig:
        """The unsplit model's configuration."""
        return self._checkpoint.config

    @property
    def source(self) -> CheckpointSource:
        """The checkpoint's files."""
        return self._checkpoint.source

    @property
    def is_cut(self) -> bool:
        """Whether the request says where the model is cut."""
        return self.request.split_point_1 is not None or self.request.split_point_2 is not None

    @cached_property
    def plan(self) -> SplitPlan:
        """The cut.

        Raises:
            CutError: the request names no split points, or they do not cut this model.
        """
        first, second = self.request.split_point_1, self.request.split_point_2
        if first is None or second is None:
            missing = "split_point_1" if first is None else "split_point_2"
            raise CutError(f"{missing} is not set; say where {self.source.name} is cut")
        return plan_cut(self.config, first, second)

    @cached_property
    def parts(self) -> tuple[PartSpec, ...]:
        """The parts that may be loaded, in the order in which data passes them."""
        return tuple(spec for spec in self.plan.parts if spec.name in self._names)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of floating-point weights in parts that are not `ModelRequest.in_float32`."""
        return loaded_dtype(self.config, self.source, self.request.dtype)

    @property
    def loader(self) -> PartLoader:
        """The loader of parts in `dtype`.

        Raises:
            UnsupportedModelError: the model cannot be cut.
            CheckpointError: the checkpoint lacks tensors that the model needs, or has tensors that are refused.
            ValueError: the quantization is unknown.
            FileNotFoundError: there are no weights.
        """
        return self.loader_in(self.dtype)

    @property
    def blueprint(self) -> Blueprint:
        """The unsplit model's structure in `dtype`; raises as `loader` does."""
        return self.loader.blueprint

    def loader_in(self, dtype: torch.dtype) -> PartLoader:
        """Return the loader of parts in a dtype; raises as `loader` does.

        Args:
            dtype: dtype of floating-point weights.
        """
        if dtype not in self._loaders:
            parts = self.parts if self.is_cut else None
            quantization = quantization_config(self.request.quantization)
            self._loaders[dtype] = self._checkpoint.make_loader(dtype, parts, quantization, self._has_settled_ties)
        return self._loaders[dtype]

    def loaders(self) -> dict[PartSpec, PartLoader]:
        """Return the loader of each part, in float32 where that was asked for; raises as `loader` does."""
        wide = set(self.request.in_float32)
        if self.blueprint.ties and wide & {"bottom", "top"}:
            # A tensor that two parts share has one dtype.
            wide |= {"bottom", "top"}
        return {spec: self.loader_in(torch.float32 if spec.name in wide else self.dtype) for spec in self.parts}

    def revise(self, **changes: Any) -> OpenedModel:
        """Return the same checkpoint under a changed request; nothing is read again.

        Args:
            **changes: attributes of `ModelRequest` with new values, for example both split points.

        Returns:
            Another opened model that shares all that was read.

        Raises:
            CutError: new split points do not cut this model.
            ValueError: a change would make it another checkpoint.
        """
        for name in _WHICH_CHECKPOINT:
            if changes.get(name, getattr(self.request, name)) != getattr(self.request, name):
                raise ValueError(f"{name} says which checkpoint is opened; make a ModelRequest with {name}={changes[name]!r}")
        revised = OpenedModel(replace(self.request, **changes), self._checkpoint, self._names)
        if revised.is_cut:
            _ = revised.plan
        return revised

    def only(self, names: Collection[str]) -> OpenedModel:
        """Return the same for some parts: of the others no shard is opened, and none is loaded.

        Args:
            names: the parts' names.
        """
        return OpenedModel(self.request, self._checkpoint, check_part_names(names, "names"))

    def settle_ties(self) -> None:
        """Find out whether tensors that the model ties have equal values where the checkpoint stores both.

        From a hub they are downloaded, so this comes right before parts are loaded. A tie whose other end is in none of the
        parts stays unsettled.
        """
        if not self._has_settled_ties:
            self._has_settled_ties = True
            self._loaders.clear()

    def check(self) -> None:
        """Check everything that needs no weights: the cut, the names, and the shapes in a local folder's shards.

        Raises:
            CutError: the cut leaves a part that cannot run.
            CheckpointError: tensors are missing, unexpected or of the wrong shape, or a shard is damaged.
            FileNotFoundError: a shard is missing.
        """
        self.blueprint.check(self.plan)
        if self.source.is_local:
            for spec, loader in self.loaders().items():
                loader.open(loader.reading(spec))

    def load(
        self,
        device: str = "cpu",
        device_map: str | Mapping[str, str] | None = None,
        *,
        trained: Collection[str] = (),
        low_memory: bool = True,
        verbose: bool = False,
        tracker: MemoryTracker | None = None,
        shows_bars: bool = True,
        placement: Placement | None = None,
    ) -> LoadedParts:
        """Load the parts.

        Args:
            device: device of parts that ``device_map`` does not name.
            device_map: None, one device, a mapping from part to device, or ``"auto"``; see `resolve_device_map`.
            trained: parts whose weights will be written: they are read into private memory rather than mapped.
            low_memory: load part by part, each from just the shards and tensors it needs. Otherwise the whole model is loaded
                first and then divided, and the receipt is empty.
            verbose: print progress, memory and the receipt.
            tracker: records a snapshot after each part; None uses one of its own.
            shows_bars: whether ``verbose`` shows progress bars too.
            placement: where each part goes, instead of ``device`` and ``device_map``.

        Returns:
            The parts, in evaluation mode, and the receipt.

        Raises:
            DeviceMapError: a device is malformed or absent, or a part's name is unknown.
            ValueError: a part's name is unknown, or a model that is loaded as a whole is to be quantized.
            CheckpointError: a file is damaged or does not hold what the model needs.
            FileNotFoundError: a shard is missing.
        """
        narrator = Narrator(verbose, tracker or MemoryTracker(), shows_bars)
        devices = devices_of(self._names, placement, device, device_map)
        written = check_part_names(trained, "trained")
        if not low_memory and self.request.quantization is not None:
            raise ValueError("a model is quantized while its parts are loaded one by one: quantization needs low_memory=True")
        self.settle_ties()
        self.check()
        loaders = self.loaders()
        try:
            if low_memory:
                loaded = load_incrementally(loaders, devices, narrator, written)
            else:
                loaded = list(load_whole(loaders, devices, narrator))
        finally:
            for spec, loader in loaders.items():
                loader.close(spec)
        result = LoadedParts.of(loaded, self.source, self.plan, self.loader.left_out)
        if low_memory:
            narrator.show(result.receipt)
        return result
