"""How much memory this process holds, told apart by kind, at moments that have names.

Resident memory alone misleads where weights are mapped from files: pages of a mapped checkpoint count as resident, yet the
system takes them back whenever it needs room. So anonymous memory (what the process itself allocated) and file-backed
memory are reported apart where the system tells them apart (Linux). 1 GiB is 2**30 bytes.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import psutil
from rich.cells import cell_len

GIB = 2**30
_LABEL_WIDTH = 24


def format_bytes(size: float) -> str:
    """Return a number of bytes for the eye: GiB (2**30 bytes) from one of them on, else MiB or KiB."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size / 2**10:.1f} KiB" if size else "0"


@dataclass(frozen=True)
class MemorySnapshot:
    """Memory of this process at one moment; every figure in bytes.

    Attributes:
        label: the name given to the moment, in the user's own words.
        time_s: seconds since the tracker was made.
        rss_bytes: resident memory.
        anonymous_bytes: resident memory that no file backs; None where the system does not say.
        file_bytes: resident pages of mapped files and shared memory; None where the system does not say.
        gpu_bytes: memory that torch has allocated on each GPU.
    """

    label: str
    time_s: float
    rss_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    gpu_bytes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain values, for JSON."""
        return {**asdict(self), "gpu_bytes": list(self.gpu_bytes)}


def _gpu_bytes() -> tuple[int, ...]:
    # A process that never imported torch holds no GPU memory through it, and importing it here would cost seconds.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))


def give_back_memory() -> None:
    """Give unused memory back to the system: Python's garbage, torch's cache on GPUs, and what the C library keeps."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc's own; other C libraries have no such function.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class MemoryTracker:
    """Records memory snapshots and prints what changed.

    Used as a context manager it also samples in the background, so that peaks between two snapshots are seen::

        with MemoryTracker() as tracker:
            tracker.snapshot("start")
            ...
            tracker.snapshot("loaded")
        tracker.summary()

    Args:
        sample_interval_s: seconds between two background samples while used as a context manager; it may be entered again while
            it is in use.
    """

    def __init__(self, sample_interval_s: float = 0.02) -> None:
        self.snapshots: list[MemorySnapshot] = []
        self.peak_rss_bytes = 0
        self.peak_anonymous_bytes = 0
        self.peak_file_bytes = 0
        self.peak_gpu_bytes = 0
        self._sample_interval_s = sample_interval_s
        self._process = psutil.Process()
        self._start_s = time.monotonic()
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None
        self._users = 0
        # Held while a sample is taken and counted, so that none that began in a pause counts after it.
        self._lock = threading.RLock()
        self._pauses = 0

    def _measure(self, label: str) -> MemorySnapshot:
        info = self._process.memory_info()
        # Linux counts resident pages that a file or shared memory backs as "shared"; the rest is anonymous.
        shared = getattr(info, "shared", None)
        return MemorySnapshot(
            label=label,
            time_s=time.monotonic() - self._start_s,
            rss_bytes=info.rss,
            anonymous_bytes=None if shared is None else max(info.rss - shared, 0),
            file_bytes=shared,
            gpu_bytes=_gpu_bytes(),
        )

    def sample(self) -> MemorySnapshot:
        """Measure once, raise the recorded peaks, and keep nothing else.

        Returns:
            What was measured, under the label ``"sample"``.
        """
        with self._lock:
            measured = self._measure("sample")
            self._raise_peaks(measured)
        return measured

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave peaks as they are, whatever memory is taken meanwhile; snapshots are still taken if asked for.

        In the end memory that is no longer used is given back to the system, as far as the allocators do so.
        """
        self.sample()
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            give_back_memory()
            with self._lock:
                self._pauses -= 1

    def _raise_peaks(self, measured: MemorySnapshot) -> None:
        if self._pauses:
            return
        self.peak_rss_bytes = max(self.peak_rss_bytes, measured.rss_bytes)
        self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, measured.anonymous_bytes or 0)
        self.peak_file_bytes = max(self.peak_file_bytes, measured.file_bytes or 0)
        self.peak_gpu_bytes = max(self.peak_gpu_bytes, sum(measured.gpu_bytes))

    def snapshot(self, label: str) -> MemorySnapshot:
        """Record the memory of this moment under ``label``.

        Returns:
            The snapshot, which is also appended to ``snapshots``.
        """
        with self._lock:
            measured = self._measure(label)
            self._raise_peaks(measured)
        self.snapshots.append(measured)
        return measured

    def get_current_usage(self) -> dict[str, float]:
        """Return the memory of this moment in GiB, without recording it.

        Returns:
            ``ram_gib`` (resident), ``gpu_gib`` (all GPUs), and where the system tells them ``anonymous_gib`` and ``file_gib``;
            with GPUs also ``gpu_0_gib`` and so on.
        """
        now = self._measure("now")
        usage = {"ram_gib": now.rss_bytes / GIB, "gpu_gib": sum(now.gpu_bytes) / GIB}
        if now.anonymous_bytes is not None and now.file_bytes is not None:
            usage |= {"anonymous_gib": now.anonymous_bytes / GIB, "file_gib": now.file_bytes / GIB}
        return usage | {f"gpu_{index}_gib": size / GIB for index, size in enumerate(now.gpu_bytes)}

    def report(self) -> str:
        """Print the last snapshot and its difference from the one before, and return the printed text.

        Raises:
            ValueError: no snapshot has been taken yet.
        """
        if not self.snapshots:
            raise ValueError("there is nothing to report: call snapshot(label) first")
        last = self.snapshots[-1]
        before = self.snapshots[-2] if len(self.snapshots) > 1 else last
        rows = [
            f"Memory: {last.label}",
            f"  RAM: {last.rss_bytes / GIB:.2f} GiB ({(last.rss_bytes - before.rss_bytes) / GIB:+.2f} GiB)",
            f"  GPU: {sum(last.gpu_bytes) / GIB:.2f} GiB ({(sum(last.gpu_bytes) - sum(before.gpu_bytes)) / GIB:+.2f} GiB)",
        ]
        text = "\n".join(rows)
        print(text)
        return text

    def summary(self) -> str:
        """Print the peaks and the timeline of all snapshots, and return the printed text."""
        rows = [
            "=== Memory Usage Summary ===",
            f"Peak RAM: {self.peak_rss_bytes / GIB:.2f} GiB",
            f"Peak GPU: {self.peak_gpu_bytes / GIB:.2f} GiB",
            "",
            "Timeline:",
        ]
        width = max([_LABEL_WIDTH, *(cell_len(each.label) for each in self.snapshots)])
        for each in self.snapshots:
            padding = " " * (width - cell_len(each.label))
            gpu_gib = sum(each.gpu_bytes) / GIB
            rows.append(f"  {each.label}{padding}RAM: {each.rss_bytes / GIB:6.2f} GiB  GPU: {gpu_gib:6.2f} GiB")
        text = "\n".join(rows)
        print(text)
        return text

    def __enter__(self) -> MemoryTracker:
        self._users += 1
        if self._users > 1:
            return self
        self._stop.clear()
        self._sampler = threading.Thread(target=self._run_sampler, name="memory-sampler", daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._users -= 1
        if self._users > 0:
            return
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()
            self._sampler = None

    def _run_sampler(self) -> None:
        while not self._stop.wait(self._sample_interval_s):
            self.sample()
