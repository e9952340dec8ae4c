"""Measuring the cost of loading a part."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from splitlearn.checkpoint import PartReceipt
from splitlearn.loading.part_loader import PartLoader, PartReading
from splitlearn.memory import GIB, MemorySnapshot, MemoryTracker
from splitlearn.model import SplitModel


@dataclass
class ReadLog:
    """Records each tensor that is read, from any thread, and moves a progress bar.

    Attributes:
        shared: checkpoint names of tensors that another part holds already, so that they are not read again.
        bar: the bar, one step for each tensor.
        read_bytes: bytes asked of the files, by checkpoint name.
        downloaded_bytes: bytes of weights that came over the network.
    """

    shared: frozenset[str]
    bar: tqdm
    read_bytes: dict[str, int] = field(default_factory=dict)
    downloaded_bytes: int = 0

    def __post_init__(self) -> None:
        # Tensors are read by several threads, both transformers' and ours.
        self._lock = threading.Lock()
        self._began_s = time.perf_counter()

    def __call__(self, name: str, size_bytes: int) -> None:
        """Record that a tensor has been read.

        Args:
            name: its name in the checkpoint.
            size_bytes: the bytes that were read.
        """
        with self._lock:
            self.read_bytes[name] = self.read_bytes.get(name, 0) + size_bytes
            gib = sum(self.read_bytes.values()) / GIB
            rate = gib / max(time.perf_counter() - self._began_s, 1e-6)
            self.bar.set_postfix_str(f"{gib:.2f} GiB, {rate:.2f} GiB/s", refresh=False)
            self.bar.update()


def write_receipt(
    loader: PartLoader,
    reading: PartReading,
    log: ReadLog,
    part: SplitModel,
    writable: bool,
    meter: MemoryTracker,
    start: MemorySnapshot,
    seconds: float,
) -> PartReceipt:
    """Return the receipt of one part.

    Args:
        loader: the opened checkpoint.
        reading: the plan of what the part reads.
        log: the record of what was read.
        part: the loaded part.
        writable: whether it was loaded to be trained.
        meter: the tracker that sampled memory while the part was loaded.
        start: the memory before.
        seconds: how long loading took.
    """
    shards = loader.open(reading)
    names = dict.fromkeys(reading.sources.values())
    shard_of = {name: shards[loader.source.weight_map[name]] for name in names}
    needed = {name: shard.num_bytes(name) for name, shard in shard_of.items()}
    dtypes = {name: (shard.dtype(name), loader.dtype_on_load(name, shard.dtype(name))) for name, shard in shard_of.items()}
    cast_names = {name: f"{_name(stored)} -> {_name(loaded)}" for name, (stored, loaded) in dtypes.items() if stored != loaded}
    files = {str(shard.path) for shard in shards.values()}
    copied = {read.name for read in loader.copies(reading, shards, log.shared, writable)}
    kept = [name for name in log.read_bytes if loader.takes_as_is(name) and name not in copied and name not in cast_names]
    return PartReceipt(
        part=part.spec.name,
        holds=part.spec.describe(),
        device=str(part.device),
        shards=tuple(sorted(files)),
        num_tensors=len(names),
        needed_bytes=sum(needed.values()),
        read_bytes=sum(log.read_bytes.values()),
        mapped_bytes=sum(needed[name] for name in kept) if part.device.type == "cpu" else 0,
        downloaded_bytes=log.downloaded_bytes,
        shared_bytes=sum(needed[name] for name in log.shared),
        casts=dict(Counter(cast_names.values())),
        num_converted=sum(not loader.takes_as_is(name) for name in names),
        tied=tuple(sorted(log.shared)),
        weight_bytes=part.weight_bytes,
        seconds=seconds,
        peak_anonymous_bytes=_above(meter.peak_anonymous_bytes, start.anonymous_bytes),
        peak_file_bytes=_above(meter.peak_file_bytes, start.file_bytes),
        peak_gpu_bytes=max(meter.peak_gpu_bytes - sum(start.gpu_bytes), 0),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _above(peak: int, before: int | None) -> int | None:
    return None if before is None else max(peak - before, 0)
