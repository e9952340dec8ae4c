"""Loading one part from a checkpoint, reading only the tensors that the part needs."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from splitlearn.checkpoint import (
    CheckpointError,
    CheckpointSource,
    LazyTensor,
    Shard,
    TensorRead,
    is_on_network,
    prefetch,
    read_tensors,
)
from splitlearn.cut import CutError, PartSpec
from splitlearn.loading.conversion import fill_by_conversion
from splitlearn.loading.filling import change_as_owners_do, fill, tie_within
from splitlearn.loading.matching import Match, sources_for
from splitlearn.loading.quantization import quantization_of_part, quantized_names
from splitlearn.model import Blueprint, SplitModel, cut_out

OnRead = Callable[[str, int], None]
_KEPT_IN_FLOAT32 = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")


@dataclass(frozen=True)
class PartReading:
    """The tensors and files that loading one part will read.

    Attributes:
        part: the part.
        sources: from the name that is shown to transformers' loader to the name in the checkpoint.
        files: the shards that hold the tensors.
        targets: from the part's own tensor names to the names in the checkpoint; None where tensors are converted on the way.
    """

    part: PartSpec
    sources: dict[str, str]
    files: frozenset[str]
    targets: dict[str, str] | None


class PartLoader:
    """Loads the parts of one checkpoint, each from just the shards and tensors it needs.

    `OpenedModel` makes it, after it has compared the checkpoint's index with the model.

    Args:
        blueprint: the unsplit model's structure.
        source: the checkpoint.
        matches: which checkpoint tensor feeds which tensor of the model, from `match_tensors`.
        left_out: the checkpoint's tensors that the model does not have and that are not read.
        parts: the parts to be loaded, for which a hub's files are downloaded; None means all.
        quantization: transformers' quantization config for parts that are not trained; None leaves them as they are.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        source: CheckpointSource,
        matches: list[Match],
        left_out: list[str],
        parts: Sequence[PartSpec] | None = None,
        quantization: Any = None,
    ) -> None:
        self.blueprint = blueprint
        self.source = source
        self.quantization = quantization
        self.matches, self.left_out = matches, left_out
        self._opened: dict[PartSpec, dict[str, Shard]] = {}
        self._readings: dict[PartSpec, PartReading] = {}
        self._converted = {match.source for match in self.matches if match.is_converted}
        self._source_of = {target: match.source for match in self.matches for target in match.targets}
        self._dtypes = {name: tensor.dtype for name, tensor in blueprint.meta_model.state_dict().items()}
        self._target_of = {match.source: match.targets[0] for match in self.matches}
        # The tensors of all parts to be loaded, so that a file's ranges are downloaded for all of them at once.
        self._names_to_fetch = (
            None if parts is None else frozenset(name for part in parts for name in self.reading(part).sources.values())
        )

    def stored_names(self, pair: tuple[str, str]) -> list[str]:
        """Return the checkpoint's names of the stored ends of a tie: one or two.

        Args:
            pair: the two tied tensors, by the unsplit model's names.
        """
        return [self._source_of[end] for end in pair if end in self._source_of]

    @cached_property
    def copied(self) -> dict[str, str]:
        """From each untied parameter that the checkpoint does not store to the one that it begins as a copy of."""
        return self._absent_ends(self.blueprint.untied)

    def _absent_ends(self, ties: Mapping[str, str]) -> dict[str, str]:
        """Return each end of a tie that the checkpoint does not store, with the stored end."""
        pairs = [pair for tied, owner in ties.items() for pair in ((tied, owner), (owner, tied))]
        return {absent: present for absent, present in pairs if absent not in self._source_of}

    def reading(self, part: PartSpec) -> PartReading:
        """Return what loading a part will read; no file is opened.

        Args:
            part: the part.
        """
        if part not in self._readings:
            self._readings[part] = self._make_reading(part)
        return self._readings[part]

    def _make_reading(self, part: PartSpec) -> PartReading:
        sources = sources_for(self.blueprint, self.matches, part)
        targets = {self.blueprint.local_name(self._target_of[name], part): name for name in sources.values()}
        # If the checkpoint stores one end of a tie only, a part with the absent end reads the stored one under the absent
        # end's name.
        for absent, present in (self._absent_ends(self.blueprint.ties) | self.copied).items():
            if self.blueprint.belongs_to(absent, part):
                sources[absent] = targets[absent] = self._source_of[present]
        is_converted = any(not self.takes_as_is(name) for name in sources.values())
        files = frozenset(self.source.weight_map[name] for name in sources.values())
        return PartReading(part, sources, files, None if is_converted else targets)

    def open(self, reading: PartReading, on_open: Callable[[], object] = lambda: None) -> dict[str, Shard]:
        """Open the shards of a reading and check names and shapes, without reading weights; they stay open until `close`.

        Args:
            reading: the tensors to be read.
            on_open: called for each shard, after its download from a hub.

        Returns:
            The opened shards by file name.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged, lacks a tensor, or holds one of another shape than the model's.
        """
        if reading.part in self._opened:
            for _ in reading.files:
                on_open()
            return self._opened[reading.part]
        names = None if self._names_to_fetch is None else self._names_to_fetch.union(reading.sources.values())
        shards = self.source.open_shards(reading.files, names, on_open)
        expected = self.blueprint.meta_model.state_dict()
        names_to_read = set(reading.sources.values())
        for match in self.matches:
            if match.is_converted or match.source not in names_to_read:
                continue
            file = self.source.weight_map[match.source]
            stored, needed = shards[file].shape(match.source), tuple(expected[match.targets[0]].shape)
            if stored != needed:
                raise CheckpointError(f"{shards[file].path}: {match.source} has shape {stored}, but the model needs {needed}")
        self._opened[reading.part] = shards
        return shards

    def close(self, part: PartSpec) -> None:
        """Let go of the files that were opened for a part; tensors mapped from them stay valid.

        Args:
            part: the part.
        """
        self._opened.pop(part, None)

    def takes_as_is(self, name: str) -> bool:
        """Whether a tensor becomes one of the model's without any conversion but a cast.

        Args:
            name: its name in the checkpoint.
        """
        return name not in self._converted

    def dtype_on_load(self, name: str, stored: torch.dtype) -> torch.dtype:
        """Return the dtype that a tensor is loaded in: that of its place in the model.

        A few architectures keep some places in float32 in any case.

        Args:
            name: the tensor's name in the checkpoint.
            stored: its dtype there.
        """
        if self.takes_as_is(name) and name in self._target_of:
            return self._dtypes[self._target_of[name]]
        return self.blueprint.dtype if stored.is_floating_point else stored

    @property
    def _keeps_float32(self) -> bool:
        """Whether some modules stay in float32 in any case; only transformers' loader knows which."""
        return any(getattr(self.blueprint.meta_model, name, None) for name in _KEPT_IN_FLOAT32)

    def copies(self, reading: PartReading, shards: dict[str, Shard], skip: Container[str], writable: bool) -> list[TensorRead]:
        """Return the reads into private memory: of tensors that will be written or cast. All others are mapped.

        Args:
            reading: the tensors to be read.
            shards: the opened files.
            skip: names of tensors that are in memory already.
            writable: whether the part will be trained.

        Returns:
            One read for each such tensor, with the dtype that it gets.
        """
        casts_here = not self._keeps_float32
        copies = []
        for name in dict.fromkeys(reading.sources.values()):
            shard = shards[self.source.weight_map[name]]
            stored = shard.dtype(name)
            loaded = self.dtype_on_load(name, stored)
            is_cast = loaded != stored
            if name not in skip and self.takes_as_is(name) and (casts_here if is_cast else writable):
                copies.append(TensorRead(name, shard, loaded))
        return copies

    def load(self, reading: PartReading, on_read: OnRead, ready: dict[str, torch.Tensor], writable: bool = False) -> SplitModel:
        """Load one part onto the CPU; weights of the blueprint's dtype stay mapped from the file unless they will be written.

        Args:
            reading: the tensors to read, from `reading`.
            on_read: called with each tensor's name and size in bytes as it is read.
            ready: tensors already in memory, by checkpoint name; they are shared instead of being read again.
            writable: whether the part will be trained: its weights are then read into private memory.

        Returns:
            The part, in evaluation mode.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged, or transformers' loader could not fill the part.
            CutError: the part has no layers, and the architecture cannot be made without any.
        """
        shards = self.open(reading)
        quantization = None if writable else self.quantization
        # A quantized part is read and cast one tensor at a time by transformers' loader, to keep the peak of memory low.
        copies = [] if quantization is not None else self.copies(reading, shards, ready, writable)
        in_memory = ready | read_tensors(copies, on_read)
        self._prefetch(set(reading.sources.values()) - in_memory.keys(), shards)
        lazy = {
            name: LazyTensor(shards[self.source.weight_map[name]], name, on_read)
            for name in reading.sources.values()
            if name not in in_memory
        }
        readable: dict[str, Any] = in_memory | lazy
        model, passage = cut_out(self.blueprint.meta_model, reading.part, self.blueprint.anatomy)
        try:
            targets = reading.targets
            if quantization is None and targets is not None and self._is_stored_as_needed(model, targets, readable):
                mapped = in_memory | {name: tensor[...] for name, tensor in lazy.items()}
                fill(model, {target: mapped[name] for target, name in targets.items()})
            else:
                tensors = {presented: readable[name] for presented, name in reading.sources.items()}
                config = None
                if quantization is not None:
                    config = quantization_of_part(quantization, model, self.blueprint, reading.part, self.quantized_names)
                fill_by_conversion(model, self.blueprint, tensors, config, f"{self.source.name}: {reading.part.name}")
        except (AttributeError, ZeroDivisionError) as error:
            # Without layers some classes divide by their number, or look for the first one.
            if reading.part.start < reading.part.end:
                raise
            raise CutError(
                f"{reading.part.name} would have no layers (split points {reading.part.start} and {reading.part.end}), but a "
                f"{self.blueprint.model_class.__name__} cannot be made without any ({error}): give it at least one"
            ) from error
        tie_within(self.blueprint, reading.part, model)
        change_as_owners_do(self.blueprint, reading.part, model, self.blueprint.ties | self.copied)
        return SplitModel(self.blueprint, reading.part, model, passage)

    def _is_stored_as_needed(
        self, model: PreTrainedModel, targets: dict[str, str], tensors: Mapping[str, torch.Tensor | LazyTensor]
    ) -> bool:
        """Whether ``tensors`` are all that the part needs, in the dtypes that it needs; shapes were checked on opening."""
        places = model.state_dict()
        return (
            not self._keeps_float32
            and places.keys() == targets.keys()
            and all(tensors[targets[name]].dtype == place.dtype for name, place in places.items())
        )

    @cached_property
    def quantized_names(self) -> frozenset[str]:
        """The unsplit model's parameters that are quantized in parts that are not trained; empty without a quantization."""
        if self.quantization is None:
            return frozenset()
        return quantized_names(self.blueprint.meta_model, self.quantization)

    def _prefetch(self, names: set[str], shards: dict[str, Shard]) -> None:
        """Read ahead tensors that will be mapped from a network file system, where page faults one by one are slow."""
        for file, shard in shards.items():
            in_file = [name for name in names if self.source.weight_map[name] == file]
            offsets = {name: shard.offset(name) for name in in_file}
            ranges = [(start, start + shard.num_bytes(name)) for name, start in offsets.items() if start is not None]
            if ranges and is_on_network(shard.path):
                prefetch(shard.path, ranges)
