"""The cost of loading: for each part the files opened, the bytes read against the bytes needed, and the peak of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from splitlearn.checkpoint.errors import name_some
from splitlearn.memory import GIB
from splitlearn.terminal import make_console


@dataclass(frozen=True)
class PartReceipt:
    """The cost of loading one part.

    Attributes:
        part: its name.
        holds: its layers, in words.
        device: where it went.
        shards: the files that were opened.
        num_tensors: tensors that were taken from the files.
        needed_bytes: bytes of the part's tensors in the files.
        read_bytes: bytes of them that were requested from the files.
        mapped_bytes: bytes of those that stay mapped: the system reads them when they are first used.
        downloaded_bytes: bytes of weights that came over the network for it.
        shared_bytes: bytes of them that another part had in memory already, such as a tied head's.
        casts: how many tensors changed their dtype, for example ``{"bfloat16 -> float32": 12}``.
        num_converted: tensors that were merged, split or transposed into transformers' layout.
        tied: names that share another part's tensor.
        weight_bytes: bytes of the part's parameters once it is loaded.
        seconds: how long loading took.
        peak_anonymous_bytes: the peak of anonymous memory above that before loading; None where the system does not say.
        peak_file_bytes: the same for mapped file pages.
        peak_gpu_bytes: the same for all GPUs.
    """

    part: str
    holds: str
    device: str
    shards: tuple[str, ...]
    num_tensors: int
    needed_bytes: int
    read_bytes: int
    mapped_bytes: int
    downloaded_bytes: int
    shared_bytes: int
    casts: Mapping[str, int]
    num_converted: int
    tied: tuple[str, ...]
    weight_bytes: int
    seconds: float
    peak_anonymous_bytes: int | None
    peak_file_bytes: int | None
    peak_gpu_bytes: int


@dataclass(frozen=True)
class LoadReceipt:
    """The cost of loading parts of one checkpoint.

    Attributes:
        model: the folder or hub id.
        commit: the hub's commit; None for a local folder.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top.
        dtype: dtype of the loaded floating-point weights.
        parts: one receipt for each loaded part.
        left_out: tensors of the checkpoint that the model does not have.
        tied_elsewhere: from tensors of these parts to the tensors that the model ties them to and that none of them holds.
    """

    model: str
    commit: str | None
    split_point_1: int
    split_point_2: int
    dtype: str
    parts: tuple[PartReceipt, ...]
    left_out: tuple[str, ...] = ()
    tied_elsewhere: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain values, for JSON."""
        return asdict(self)

    def print(self) -> None:
        """Print the receipt as a table."""
        make_console().print(self.table())

    def table(self) -> Table:
        """Return the receipt as a rich table, sizes in GiB (2**30 bytes)."""
        commit = f" at {self.commit[:12]}" if self.commit else ""
        title = f"{self.model}{commit} cut at {self.split_point_1} / {self.split_point_2}, {self.dtype}"
        table = Table(title=title, title_justify="left")
        # One column for each part, so that it can be read in 80 columns.
        table.add_column("")
        for part in self.parts:
            table.add_column(part.part, justify="right")
        rows = [_column(part) for part in self.parts]
        for heading in rows[0] if rows else ():
            table.add_row(heading, *(row[heading] for row in rows))
        notes = [note for part in self.parts for note in _notes(part)]
        if self.left_out:
            notes.append(
                f"left out: {len(self.left_out)} tensors that the model does not have ({name_some([*self.left_out], 3)})"
            )
        notes += [
            f"{name} is tied to {other}, which none of these parts holds: train neither, or both as one"
            for name, other in self.tied_elsewhere.items()
        ]
        table.caption, table.caption_justify = "\n".join(notes), "left"
        return table


def _column(part: PartReceipt) -> dict[str, str]:
    """Return a part's cells in the table, by the headings of the rows."""
    sizes = {
        "needed": part.needed_bytes,
        "read": part.read_bytes,
        "mapped": part.mapped_bytes,
        "shared": part.shared_bytes,
        "peak anonymous": part.peak_anonymous_bytes,
    }
    counts = {"shards": f"{len(part.shards)}", "tensors": f"{part.num_tensors}"}
    shown = {f"{name}, GiB": "?" if size is None else f"{size / GIB:.3f}" for name, size in sizes.items()}
    return {"holds": part.holds, "device": part.device, **counts, **shown, "seconds": f"{part.seconds:.2f}"}


def _notes(part: PartReceipt) -> list[str]:
    notes = [f"{part.part}: {part.downloaded_bytes / GIB:.3f} GiB downloaded"] if part.downloaded_bytes else []
    notes += [f"{part.part}: {count} tensors cast, {cast}" for cast, count in part.casts.items()]
    if part.num_converted:
        notes.append(f"{part.part}: {part.num_converted} tensors converted to transformers' layout")
    if part.tied:
        notes.append(f"{part.part}: shares {', '.join(part.tied)} with another part")
    return notes
