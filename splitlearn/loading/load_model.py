"""The two ways to load all three parts: one after another from their own shards, or the whole model first."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence

import torch
from tqdm import tqdm

from splitlearn.checkpoint import LoadReceipt
from splitlearn.cut import PartSpec
from splitlearn.loading.part_loader import PartLoader, PartReading
from splitlearn.loading.receipts import ReadLog, write_receipt
from splitlearn.loading.unexpected import describe_left_out
from splitlearn.memory import MemoryTracker
from splitlearn.model import SplitModel, tie_parts

# Loading a part may take only a few milliseconds.
_PART_SAMPLE_INTERVAL_S = 0.005


class _Bar(tqdm):
    # Otherwise tqdm starts a thread that outlives the bar.
    monitor_interval = 0


class Narrator:
    """Tells the user what is being loaded and the tracker what it cost.

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
        """Announce a part."""
        if self._verbose:
            print(f"Loading component: {part.name} ({part.describe()})", flush=True)

    def bar(self, description: str, total: int) -> tqdm:
        """Return a progress bar over ``total`` steps, silent unless bars are shown."""
        return _Bar(total=total, desc=description, disable=not self._shows_bars)

    def show(self, receipt: LoadReceipt) -> None:
        """Print what loading cost."""
        if self._verbose:
            receipt.print()

    def mention_left_out(self, names: Sequence[str]) -> None:
        """Print which of the checkpoint's tensors the model does not have; a receipt says it of parts loaded one by one."""
        if self._verbose and names:
            print(describe_left_out(names), flush=True)

    def end(self, label: str) -> None:
        """Record the memory under ``label`` and print how it changed."""
        self._tracker.snapshot(label)
        if self._verbose:
            self._tracker.report()


def _release() -> None:
    # What loading held is gone once its last reference is: no cycles keep it, so the collector's pause would buy nothing.
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
            # Ties come before the move, so that a shared head is not carried to the device a second time.
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
    ready = loader.already_read(reading, loaded)
    with narrator.bar("Loading parameters from shards", len(reading.sources) - len(ready)) as bar:
        log = ReadLog(frozenset(ready), bar, downloaded_bytes=loader.source.downloaded_bytes - before_bytes)
        return loader.load(reading, log, ready, writable), reading, log


def load_whole(loaders: Mapping[PartSpec, PartLoader], devices: Mapping[str, str], narrator: Narrator) -> list[SplitModel]:
    """Load the whole model the traditional way, then divide its tensors among the parts.

    Args:
        loaders: the parts, each with the opened checkpoint.
        devices: where each part goes.
        narrator: reports progress and memory.
    """
    # Of two dtypes the narrower is what is stored: the parts that are float32 are cast from it.
    loader = min(loaders.values(), key=lambda loader: loader.blueprint.dtype.itemsize)
    for spec, own in loaders.items():
        # Names and shapes are checked, as they are for parts that are loaded one by one.
        own.open(own.reading(spec))
    whole = loader.load_whole()
    narrator.end("whole model loaded")
    narrator.mention_left_out(loader.left_out)
    tensors = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers(remove_duplicate=False))
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    # What transformers ties, each part that is to hold it for itself gets as a copy.
    detached |= {name: detached[name].clone() for name in loader.blueprint.untied}
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


def _cast(tensors: Mapping[str, torch.Tensor], loader: PartLoader, spec: PartSpec) -> dict[str, torch.Tensor]:
    """Return the tensors with those of one part in the dtypes that its own loader gives them."""
    model, blueprint = loader.blueprint.meta_model, loader.blueprint
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    own = {name: places[name].dtype for name in tensors if name in places and blueprint.belongs_to(name, spec)}
    return dict(tensors) | {name: tensors[name].to(dtype) for name, dtype in own.items()}
