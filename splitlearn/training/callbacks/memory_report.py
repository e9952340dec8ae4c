"""Reporting the memory of parts and process at every epoch's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from splitlearn.cut import Placement
from splitlearn.files import write_json
from splitlearn.memory import GIB, MemorySnapshot
from splitlearn.terminal import make_console
from splitlearn.training.callbacks.find_callback import find_callback
from splitlearn.training.callbacks.part_bytes import PartBytes
from splitlearn.training.module import SplitCausalLM
from splitlearn.training.part_memory import PartMemory, bytes_by_party, part_memory


class MemoryReport(Callback):
    """Prints a table at each training epoch's end, logs its figures, and writes them to a file in the run's folder.

    The file has ``epochs``, one for each epoch's end: ``epoch``, ``step``, ``parts`` (as `PartMemory`, with the bytes that
    `PartBytes` has measured so far), ``parties`` (their sums), ``process`` and its ``peak``; and ``snapshots``, the memory of
    the process after each part was loaded and at each epoch's end. All sizes are bytes.

    Metrics, each in GiB (2**30 bytes):
        memory/bottom_gib, memory/trunk_gib, memory/top_gib: weights of the part.
        memory/rss_gib: resident memory of the process; memory/peak_rss_gib: its highest so far.
        memory/anonymous_gib, memory/file_gib: the resident memory that no file backs, and that files back (Linux).
        memory/gpu_0_gib and so on: what torch has allocated on each GPU.

    Args:
        filename: the file to write, inside the Trainer's ``default_root_dir``.
        print_table: whether to print.
    """

    def __init__(self, *, filename: str = "memory_report.json", print_table: bool = True) -> None:
        self._filename = filename
        self._print_table = print_table
        self._epochs: list[dict[str, Any]] = []
        self._sampling = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin sampling memory in the background."""
        if isinstance(pl_module, SplitCausalLM) and stage == "fit" and not self._sampling:
            self._sampling = True
            pl_module.tracker.__enter__()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop sampling."""
        if isinstance(pl_module, SplitCausalLM) and stage == "fit" and self._sampling:
            self._sampling = False
            pl_module.tracker.__exit__(None, None, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop sampling; Lightning does not tear callbacks down after an error."""
        self.teardown(trainer, pl_module, "fit")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a snapshot and report it.

        Raises:
            TypeError: the module is not a `SplitCausalLM`, so it has no parts to report.
        """
        if not isinstance(pl_module, SplitCausalLM):
            raise TypeError(f"MemoryReport reports the parts of a SplitCausalLM, not of a {type(pl_module).__name__}")
        snapshot = pl_module.tracker.snapshot(f"epoch {trainer.current_epoch + 1}")
        parts = part_memory(pl_module.parts)
        peak = {"rss_bytes": pl_module.tracker.peak_rss_bytes, "anonymous_bytes": pl_module.tracker.peak_anonymous_bytes}
        pl_module.log_dict(_metrics(parts, snapshot, peak["rss_bytes"]))
        measured = find_callback(trainer, PartBytes)
        training = {} if measured is None else measured.parts
        report = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "parts": [part.to_dict() | training.get(part.name, {}) for part in parts],
            "parties": bytes_by_party(training, pl_module.placement),
        }
        self._epochs.append(report | {"process": snapshot.to_dict(), "peak": peak})
        moments = [moment.to_dict() for moment in pl_module.tracker.snapshots]
        content = {"unit": "bytes", "epochs": self._epochs, "snapshots": moments}
        write_json(Path(trainer.default_root_dir) / self._filename, content)
        if self._print_table:
            # Through the progress bar, which would otherwise be drawn over the table.
            console = make_console()
            with console.capture() as captured:
                console.print(memory_table(parts, snapshot, peak["rss_bytes"], pl_module.placement))
            pl_module.print("\n" + captured.get())


def _metrics(parts: list[PartMemory], snapshot: MemorySnapshot, peak_rss_bytes: int) -> dict[str, float]:
    sizes: dict[str, int | None] = {f"{part.name}_gib": part.weight_bytes for part in parts}
    sizes |= {"rss_gib": snapshot.rss_bytes, "peak_rss_gib": peak_rss_bytes}
    sizes |= {"anonymous_gib": snapshot.anonymous_bytes, "file_gib": snapshot.file_bytes}
    sizes |= {f"gpu_{index}_gib": size for index, size in enumerate(snapshot.gpu_bytes)}
    return {f"memory/{name}": size / GIB for name, size in sizes.items() if size is not None}


def memory_table(
    parts: list[PartMemory], snapshot: MemorySnapshot, peak_rss_bytes: int, placement: Placement | None = None
) -> Table:
    """Return a table of what the parts hold and, below it, what the process holds; sizes in GiB.

    Args:
        parts: what each part holds.
        snapshot: what the process holds.
        peak_rss_bytes: its highest resident memory so far.
        placement: who holds which part; it is shown if there are several parties.
    """
    table = Table(title=f"memory, {snapshot.label}", title_justify="left", caption_justify="left")
    holder = None if placement is None or len(placement.parties) == 1 else placement.holder
    for heading in ("part", *(["party"] if holder else []), "holds", "device", "dtype"):
        table.add_column(heading)
    for heading in ("parameters", "trained", "GiB"):
        table.add_column(heading, justify="right")
    for part in parts:
        counts = f"{part.num_parameters:,}", f"{part.num_trainable:,}", f"{part.weight_bytes / GIB:.3f}"
        table.add_row(part.name, *([holder(part.name)] if holder else []), part.layers, part.device, part.dtype, *counts)
    process = [f"process: RAM {snapshot.rss_bytes / GIB:.2f} GiB (peak {peak_rss_bytes / GIB:.2f})"]
    if snapshot.anonymous_bytes is not None and snapshot.file_bytes is not None:
        process.append(f"anonymous {snapshot.anonymous_bytes / GIB:.2f}, file-backed {snapshot.file_bytes / GIB:.2f}")
    process += [f"GPU {index}: {size / GIB:.2f} GiB" for index, size in enumerate(snapshot.gpu_bytes)]
    table.caption = "; ".join(process)
    return table
