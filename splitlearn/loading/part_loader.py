"""Loading one part from a checkpoint through transformers' own loader, reading only what the part needs."""

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
    name_some,
    prefetch,
    read_tensors,
)
from splitlearn.cut import CutError, PartSpec
from splitlearn.loading.filling import change_as_owners_do, fill, tie_within
from splitlearn.loading.matching import Match, sources_for
from splitlearn.loading.quantization import leave_out, quantized_names
from splitlearn.model import Blueprint, SplitModel, cut_out
from splitlearn.silence import silent_transformers

OnRead = Callable[[str, int], None]
_KEPT_IN_FLOAT32 = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")


@dataclass(frozen=True)
class PartReading:
    """What loading one part will read.

    Attributes:
        part: the part.
        sources: from the tensor name that transformers' loader is shown to the name in the checkpoint.
        files: the shards that hold them.
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
        quantization: transformers' configuration of how parts that are not written are quantized; None leaves them alone.
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
        # What a file holds for any of the parts is downloaded from it at once.
        self._wanted = (
            None if parts is None else frozenset(name for part in parts for name in self.reading(part).sources.values())
        )

    def stored_names(self, pair: tuple[str, str]) -> list[str]:
        """Return under which names the checkpoint stores the ends of a tie: one of them or both."""
        return [self._source_of[end] for end in pair if end in self._source_of]

    @cached_property
    def copied(self) -> dict[str, str]:
        """Parameters that begin as a copy of another, of which the checkpoint stores just the other: those that were untied."""
        return self._absent_ends(self.blueprint.untied)

    def _absent_ends(self, ties: Mapping[str, str]) -> dict[str, str]:
        """Return each end of a tie that the checkpoint does not store, with the end that it stores."""
        pairs = [pair for tied, owner in ties.items() for pair in ((tied, owner), (owner, tied))]
        return {absent: present for absent, present in pairs if absent not in self._source_of}

    def reading(self, part: PartSpec) -> PartReading:
        """Say what loading ``part`` will read; nothing is opened."""
        if part not in self._readings:
            self._readings[part] = self._make_reading(part)
        return self._readings[part]

    def _make_reading(self, part: PartSpec) -> PartReading:
        sources = sources_for(self.blueprint, self.matches, part)
        targets = {self.blueprint.local_name(self._target_of[name], part): name for name in sources.values()}
        # A part that needs one end of a tie and finds it absent reads the other end under its own name.
        for absent, present in (self._absent_ends(self.blueprint.ties) | self.copied).items():
            if self.blueprint.belongs_to(absent, part):
                sources[absent] = targets[absent] = self._source_of[present]
        is_converted = any(not self.takes_as_is(name) for name in sources.values())
        files = frozenset(self.source.weight_map[name] for name in sources.values())
        return PartReading(part, sources, files, None if is_converted else targets)

    def open(self, reading: PartReading, on_open: Callable[[], object] = lambda: None) -> dict[str, Shard]:
        """Open the shards of a reading and check names and shapes, without reading weights; they stay open until `close`.

        Args:
            reading: what will be read.
            on_open: called for each shard; those of a hub have been downloaded by then, or what of them is needed.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged, lacks a tensor, or holds one of another shape than the model's.
        """
        if reading.part in self._opened:
            for _ in reading.files:
                on_open()
            return self._opened[reading.part]
        names = None if self._wanted is None else self._wanted.union(reading.sources.values())
        shards = self.source.open_shards(reading.files, names, on_open)
        expected = self.blueprint.meta_model.state_dict()
        wanted_names = set(reading.sources.values())
        for match in self.matches:
            if match.is_converted or match.source not in wanted_names:
                continue
            file = self.source.weight_map[match.source]
            stored, wanted = shards[file].shape(match.source), tuple(expected[match.targets[0]].shape)
            if stored != wanted:
                raise CheckpointError(f"{shards[file].path}: {match.source} has shape {stored}, but the model needs {wanted}")
        self._opened[reading.part] = shards
        return shards

    def close(self, part: PartSpec) -> None:
        """Let go of the files that were opened for ``part``; what is mapped from them stays mapped."""
        self._opened.pop(part, None)

    def takes_as_is(self, name: str) -> bool:
        """Whether the checkpoint's tensor ``name`` becomes a tensor of the model without any conversion but its dtype's."""
        return name not in self._converted

    def dtype_on_load(self, name: str, stored: torch.dtype) -> torch.dtype:
        """Return what the checkpoint's tensor ``name`` of dtype ``stored`` becomes.

        That is the dtype of its place in the model, which a few architectures make float32 whatever the rest is.
        """
        if self.takes_as_is(name) and name in self._target_of:
            return self._dtypes[self._target_of[name]]
        return self.blueprint.dtype if stored.is_floating_point else stored

    @property
    def _keeps_float32(self) -> bool:
        """Whether some modules stay in float32 whatever the dtype; which, transformers' loader knows."""
        return any(getattr(self.blueprint.meta_model, name, None) for name in _KEPT_IN_FLOAT32)

    def copies(self, reading: PartReading, shards: dict[str, Shard], skip: Container[str], writable: bool) -> list[TensorRead]:
        """Say what is to be read into memory of its own: what will be written or cast. All else is mapped.

        Args:
            reading: what to read.
            shards: the opened files.
            skip: names of tensors that are in memory already.
            writable: whether the part will be trained.
        """
        casts_here = not self._keeps_float32
        copies = []
        for name in dict.fromkeys(reading.sources.values()):
            shard = shards[self.source.weight_map[name]]
            stored = shard.dtype(name)
            wanted = self.dtype_on_load(name, stored)
            is_cast = wanted != stored
            if name not in skip and self.takes_as_is(name) and (casts_here if is_cast else writable):
                copies.append(TensorRead(name, shard, wanted))
        return copies

    def load(self, reading: PartReading, on_read: OnRead, ready: dict[str, torch.Tensor], writable: bool = False) -> SplitModel:
        """Load one part onto the CPU; weights of the blueprint's dtype stay mapped from the file unless they will be written.

        Args:
            reading: what to read, from `reading`.
            on_read: called with each tensor's name and size in bytes as it is read.
            ready: tensors already in memory, by checkpoint name; they are shared instead of being read again.
            writable: whether the part will be trained: its weights are then read into memory of its own.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged, or transformers' loader could not fill the part.
        """
        shards = self.open(reading)
        quantization = None if writable else self.quantization
        # What is quantized is read and cast one tensor at a time, by transformers' loader.
        copies = [] if quantization is not None else self.copies(reading, shards, ready, writable)
        in_memory = ready | read_tensors(copies, on_read)
        self._prefetch(set(reading.sources.values()) - in_memory.keys(), shards)
        lazy = {
            name: LazyTensor(shards[self.source.weight_map[name]], name, on_read)
            for name in reading.sources.values()
            if name not in in_memory
        }
        found: dict[str, Any] = in_memory | lazy
        model, passage = cut_out(self.blueprint.meta_model, reading.part, self.blueprint.anatomy)
        try:
            if quantization is None and reading.targets is not None and self._wants_as_stored(model, reading.targets, found):
                mapped = in_memory | {name: tensor[...] for name, tensor in lazy.items()}
                fill(model, {target: mapped[name] for target, name in reading.targets.items()})
            else:
                tensors = {presented: found[name] for presented, name in reading.sources.items()}
                self._fill_by_conversion(model, tensors, reading.part, quantization)
        except (AttributeError, ZeroDivisionError) as error:
            if reading.part.start < reading.part.end:
                raise
            raise CutError(
                f"{reading.part.name} would have no layers (split points {reading.part.start} and {reading.part.end}), but a "
                f"{self.blueprint.model_class.__name__} cannot be made without any ({error}): give it at least one"
            ) from error
        tie_within(self.blueprint, reading.part, model)
        change_as_owners_do(self.blueprint, reading.part, model, self.blueprint.ties | self.copied)
        return SplitModel(self.blueprint, reading.part, model, passage)

    def load_whole(self) -> PreTrainedModel:
        """Load the unsplit model by transformers' own loader, each tensor from the file that the index names for it.

        Given the checkpoint's folder, transformers would take a tensor that two files hold from whichever it opens last.

        Raises:
            FileNotFoundError: a shard is missing.
            CheckpointError: a shard is damaged, or transformers' loader could not fill the model.
        """
        places = {match.source: self.source.weight_map[match.source] for match in self.matches}
        shards = self.source.open_shards(set(places.values()), frozenset(places))
        sources = {name: name for name in places}
        # Parameters of their own that begin as a copy of the other end of what was a tie.
        sources |= {absent: self._source_of[present] for absent, present in self.copied.items()}
        tensors = {name: LazyTensor(shards[places[source]], source, lambda *_: None) for name, source in sources.items()}
        # Of a model with towers the text model is made by a part of the configuration.
        config = self.blueprint.meta_model.config
        whole: PreTrainedModel = self._convert(self.blueprint.model_class, config, tensors, "the model", None)
        return whole

    def _wants_as_stored(
        self, model: PreTrainedModel, targets: dict[str, str], found: Mapping[str, torch.Tensor | LazyTensor]
    ) -> bool:
        """Whether ``found`` are all that the part needs, of the dtypes that it needs; shapes were checked on opening."""
        places = model.state_dict()
        return (
            not self._keeps_float32
            and places.keys() == targets.keys()
            and all(found[targets[name]].dtype == place.dtype for name, place in places.items())
        )

    def _fill_by_conversion(
        self, model: PreTrainedModel, tensors: Mapping[str, Any], part: PartSpec, quantization: Any
    ) -> None:
        """Fill a part by transformers' own loader, which knows every architecture's conversions and exceptions."""
        own_quantization = None if quantization is None else self._quantization_of(model, part, quantization)
        self._convert(_class_that_makes(model), self.blueprint.config, tensors, part.name, own_quantization)

    def _convert(self, model_class: Any, config: Any, tensors: Mapping[str, Any], what: str, quantization: Any) -> Any:
        """Have transformers' loader make and fill a model; ``what`` is the model's name in messages."""
        try:
            with silent_transformers():
                model, info = model_class.from_pretrained(
                    None,
                    config=config,
                    state_dict=tensors,
                    dtype=self.blueprint.dtype,
                    attn_implementation=config._attn_implementation,
                    output_loading_info=True,
                    quantization_config=quantization,
                )
        except RuntimeError as error:
            raise CheckpointError(f"{self.source.name}: {what} cannot be filled: {error}") from error
        self._check(info, what)
        return model

    def _quantization_of(self, model: PreTrainedModel, part: PartSpec, quantization: Any) -> Any:
        """Return how a part's weights are quantized: those that would be in the unsplit model.

        transformers leaves out what a model ends with, and a part ends elsewhere.
        """
        linear = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        names = {path: self.blueprint.global_name(f"{path}.weight", part) for path in linear}
        return leave_out(quantization, [path for path, name in names.items() if name not in self.quantized_names])

    @cached_property
    def quantized_names(self) -> frozenset[str]:
        """The unsplit model's parameters that are quantized in parts that are not written; empty without a quantization."""
        if self.quantization is None:
            return frozenset()
        return quantized_names(self.blueprint.meta_model, self.quantization)

    def _prefetch(self, names: set[str], shards: dict[str, Shard]) -> None:
        """Read ahead what is to be mapped from a network file system, where page faults one by one are slow."""
        for file, shard in shards.items():
            mine = [name for name in names if self.source.weight_map[name] == file]
            offsets = {name: shard.offset(name) for name in mine}
            ranges = [(start, start + shard.num_bytes(name)) for name, start in offsets.items() if start is not None]
            if ranges and is_on_network(shard.path):
                prefetch(shard.path, ranges)

    def already_read(self, reading: PartReading, loaded: Sequence[SplitModel]) -> dict[str, torch.Tensor]:
        """Return tensors of ``reading`` that parts on the CPU hold already: the other ends of ties, by checkpoint name."""
        found = {}
        for borrowed, owned in self.blueprint.ties.items():
            source = reading.sources.get(borrowed)
            for part in loaded:
                if source is not None and self.blueprint.belongs_to(owned, part.spec):
                    parameter = part.model.get_parameter(self.blueprint.local_name(owned, part.spec))
                    if parameter.device.type == "cpu" and parameter.dtype == self.blueprint.dtype:
                        found[source] = parameter.detach()
        return found

    def _check(self, info: dict[str, Any], what: str) -> None:
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            names = [str(each) for each in info.get(kind, ())]
            if names:
                raise CheckpointError(
                    f"{self.source.name}: {what} was loaded with {kind.split('_')[0]} tensors: {name_some(names)}"
                )


def _class_that_makes(model: PreTrainedModel) -> Any:
    """Return a class for transformers' loader to fill whose only instance is ``model``."""
    whole = type(model)
    # What __new__ returns is an instance of the parent class and not of this one, so Python does not initialise it again.
    namespace = {"__new__": lambda cls, *args, **kwargs: model, "__module__": whole.__module__}
    return type(whole.__name__, (whole,), namespace)
