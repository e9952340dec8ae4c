"""Two ways to load parts: one after another from their own shards, or the whole model first."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from splitlearn.checkpoint import LazyTensor, LoadReceipt
from splitlearn.cut import PartSpec
from splitlearn.loading.conversion import convert
from splitlearn.loading.part_loader import PartLoader, PartReading
from splitlearn.loading.receipts import ReadLog, write_receipt
from splitlearn.loading.unexpected import describe_left_out
from splitlearn.memory import MemoryTracker
from splitlearn.model import Blueprint, SplitModel, tie_parts

# Interval between memory samples; loading a part may take only a few milliseconds.
_PART_SAMPLE_INTERVAL_S = 0.005


class _Bar(tqdm):
    # 0 keeps tqdm from starting a monitor thread that outlives the bar.
    monitor_interval = 0


class Narrator:
    """Prints the progress of loading and records its memory.

    Args:
        verbose: whether to print at all.
        tracker: records a snapshot when loading begins and after each part.
        shows_bars: whether there are progress bars if it prints.
    """

    def __init__(self, verbose: bool, tracker: MemoryTracker, shows_bars: bool = True) -> None:
        self._verbose = verbose
        self._shows_bars = verbose and shows_bars
        self._tracker = tracker
        tracker.snapshot("before loading")

    def begin(self, part: PartSpec) -> None:
        """Announce a part.

        Args:
            part: the part that is loaded next.
        """
        if self._verbose:
            print(f"Loading component: {part.name} ({part.describe()})", flush=True)

    def bar(self, description: str, total: int) -> tqdm:
        """Return a progress bar, silent unless bars are shown.

        Args:
            description: text beside the bar.
            total: number of steps.
        """
        return _Bar(total=total, desc=description, disable=not self._shows_bars)

    def show(self, receipt: LoadReceipt) -> None:
        """Print a receipt.

        Args:
            receipt: the cost of loading.
        """
        if self._verbose:
            receipt.print()

    def mention_left_out(self, names: Sequence[str]) -> None:
        """Print which of the checkpoint's tensors were left out; for parts loaded one by one the receipt names them.

        Args:
            names: names of the tensors.
        """
        if self._verbose and names:
            print(describe_left_out(names), flush=True)

    def end(self, label: str) -> None:
        """Record the memory and print how it changed.

        Args:
            label: name of the snapshot.
        """
        self._tracker.snapshot(label)
        if self._verbose:
            self._tracker.report()


def _release() -> None:
    # Loading leaves no reference cycles, so gc.collect() would free nothing; only CUDA's cache of freed blocks is emptied.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_incrementally(
    loaders: Mapping[PartSpec, PartLoader],
    devices: Mapping[str, str],
    narrator: Narrator,
    trained: Container[str] = (),
) -> list[SplitModel]:
    """Load parts one after another, each from just its own shards and tensors, with its receipt.

    Args:
        loaders: the parts to load, each with the opened checkpoint.
        devices: where each part goes.
        narrator: reports progress and memory.
        trained: names of the parts whose weights will be written.

    Returns:
        The parts, in evaluation mode on their devices, in the order of ``loaders``.

    Raises:
        CheckpointError: a file is damaged or a part could not be filled.
        FileNotFoundError: a shard is missing.
    """
    parts: list[SplitModel] = []
    for spec, loader in loaders.items():
        narrator.begin(spec)
        began_s = time.perf_counter()
        with MemoryTracker(_PART_SAMPLE_INTERVAL_S) as meter:
            start = meter.snapshot("begin")
            part, reading, log = _load_part(loader, spec, parts, narrator, spec.name in trained)
            # Tie before the move, so that a shared head is not copied to the device a second time.
            tie_parts([*parts, part], devices)
            part = part.to(devices[spec.name])
            _release()
            meter.sample()
        part.receipt = write_receipt(
            loader, reading, log, part, spec.name in trained, meter, start, time.perf_counter() - began_s
        )
        loader.close(spec)
        parts.append(part)
        narrator.end(f"{spec.name} loaded")
    return parts


def _load_part(
    loader: PartLoader, spec: PartSpec, loaded: list[SplitModel], narrator: Narrator, writable: bool
) -> tuple[SplitModel, PartReading, ReadLog]:
    reading, before_bytes = loader.reading(spec), loader.source.downloaded_bytes
    with narrator.bar("Opening shards" if loader.source.is_local else "Downloading shards", len(reading.files)) as bar:
        loader.open(reading, bar.update)
    ready = _already_read(loader.blueprint, reading, loaded)
    with narrator.bar("Loading parameters from shards", len(reading.sources) - len(ready)) as bar:
        log = ReadLog(frozenset(ready), bar, downloaded_bytes=loader.source.downloaded_bytes - before_bytes)
        return loader.load(reading, log, ready, writable), reading, log


def _already_read(blueprint: Blueprint, reading: PartReading, loaded: Sequence[SplitModel]) -> dict[str, torch.Tensor]:
    """Return tensors that need not be read, because other parts on the CPU hold them: the other ends of ties.

    Args:
        blueprint: the unsplit model's structure.
        reading: the tensors to be read.
        loaded: parts of the same model.

    Returns:
        Tensors by checkpoint name; they share the other parts' memory.
    """
    held = {}
    for borrowed, owned in blueprint.ties.items():
        source = reading.sources.get(borrowed)
        for part in loaded:
            if source is not None and blueprint.belongs_to(owned, part.spec):
                parameter = part.model.get_parameter(blueprint.local_name(owned, part.spec))
                if parameter.device.type == "cpu" and parameter.dtype == blueprint.dtype:
                    held[source] = parameter.detach()
    return held


def load_whole(loaders: Mapping[PartSpec, PartLoader], devices: Mapping[str, str], narrator: Narrator) -> list[SplitModel]:
    """Load the whole model the traditional way, then divide its tensors among the parts.

    Args:
        loaders: the parts, each with the opened checkpoint.
        devices: where each part goes.
        narrator: reports progress and memory.

    Returns:
        The parts, in evaluation mode on their devices, without receipts.

    Raises:
        CheckpointError: a file is damaged, or the model could not be filled.
        FileNotFoundError: a shard is missing.
    """
    # If some parts are float32, load in the narrower dtype, which is the stored one, and cast those parts from it.
    loader = min(loaders.values(), key=lambda loader: loader.blueprint.dtype.itemsize)
    for spec, own in loaders.items():
        # Opening checks names and shapes, as for parts that are loaded one by one.
        own.open(own.reading(spec))
    whole = _load_unsplit(loader)
    narrator.end("whole model loaded")
    narrator.mention_left_out(loader.left_out)
    tensors = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers(remove_duplicate=False))
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    # transformers ties these tensors; parts that hold them untied get a copy.
    detached |= {name: detached[name].clone() for name in loader.blueprint.untied}
    # Drop the whole model: from here on a tensor lives only as long as a part still needs it.
    del whole, tensors
    parts: list[SplitModel] = []
    for spec, own in loaders.items():
        narrator.begin(spec)
        chosen = detached if own is loader else _cast(detached, own, spec)
        part = SplitModel.from_tensors(own.blueprint, spec, chosen, loader.source.name)
        tie_parts([*parts, part], devices)
        parts.append(part.to(devices[spec.name]))
        narrator.end(f"{spec.name} loaded")
    del detached
    _release()
    return parts


def _load_unsplit(loader: PartLoader) -> PreTrainedModel:
    """Load the unsplit model by transformers' own loader, each tensor from the file that the index names for it.

    Given the checkpoint's folder, transformers would take a tensor that two files hold from the file that it opens last.
    """
    file_of = {match.source: loader.source.weight_map[match.source] for match in loader.matches}
    shards = loader.source.open_shards(set(file_of.values()), frozenset(file_of))
    sources = {name: name for name in file_of}
    # An untied parameter that is not stored begins as a copy of the other end.
    sources |= {absent: loader.stored_names((absent, present))[0] for absent, present in loader.copied.items()}
    tensors = {name: LazyTensor(shards[file_of[source]], source, lambda *_: None) for name, source in sources.items()}
    blueprint = loader.blueprint
    # A text model with towers beside it is built from a part of the configuration.
    config = blueprint.meta_model.config
    return convert(blueprint.model_class, config, blueprint.dtype, tensors, None, f"{loader.source.name}: the model")


def _cast(tensors: Mapping[str, torch.Tensor], loader: PartLoader, spec: PartSpec) -> dict[str, torch.Tensor]:
    """Return the tensors with those of one part in the dtypes that its own loader gives them."""
    model, blueprint = loader.blueprint.meta_model, loader.blueprint
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    own = {name: places[name].dtype for name in tensors if name in places and blueprint.belongs_to(name, spec)}
    return dict(tensors) | {name: tensors[name].to(dtype) for name, dtype in own.items()}
