"""A file of which only some byte ranges have been downloaded: as long as the whole one, with holes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.header import FileHeader, parse_header
from splitlearn.files import explain_full_disk, whole_file

Range = tuple[int, int]


def merge_ranges(ranges: Iterable[Range], gap_bytes: int = 0) -> list[Range]:
    """Join ranges that overlap, touch, or lie close together.

    Args:
        ranges: first byte, and one past the last.
        gap_bytes: the largest gap to join over, in bytes.

    Returns:
        Disjoint ranges in order.
    """
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + gap_bytes:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


class PartialFile:
    """Keeps the downloaded ranges of one remote file, over interruptions and between processes.

    Beside the file lie its header (``.header``: the file's length as JSON on the first line, then the header's text) and a list
    of downloaded ranges (``.ranges``: one JSON pair a line, written after the bytes). A line that was cut off is not counted.

    Args:
        path: the file; its folder is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header_path = path.with_name(f"{path.name}.header")
        self._ranges_path = path.with_name(f"{path.name}.ranges")
        self._record_lock = threading.Lock()

    def header(self) -> FileHeader | None:
        """Return the file's header, or None if it has not been downloaded.

        Raises:
            CheckpointError: the header on the disk is damaged.
        """
        if not self._header_path.is_file():
            return None
        first, _, text = self._header_path.read_bytes().partition(b"\n")
        if not first.isdigit():
            raise CheckpointError(f"{self._header_path} is damaged; delete it")
        return parse_header(text, int(first), str(self._header_path))

    def keep_header(self, text: bytes, file_bytes: int) -> FileHeader:
        """Write the file's header to the disk, and return it parsed.

        Args:
            text: the header's JSON.
            file_bytes: length of the whole file in bytes.

        Raises:
            CheckpointError: it is no header, or not that of a file of this length.
        """
        header = parse_header(text, file_bytes, str(self.path))
        with whole_file(self._header_path) as temporary:
            temporary.write_bytes(b"%d\n" % file_bytes + text)
        return header

    def present(self) -> list[Range]:
        """Return the downloaded ranges, in order."""
        header = self.header()
        if header is None or not self._ranges_path.is_file() or not self.path.is_file():
            return []
        if self.path.stat().st_size != header.file_bytes:
            return []
        lines = self._ranges_path.read_text(encoding="utf-8").split("\n")[:-1]
        return merge_ranges(_ranges(lines))

    def missing(self, ranges: Iterable[Range]) -> list[Range]:
        """Return the sub-ranges that have not been downloaded, in order.

        Args:
            ranges: the ranges that are needed.
        """
        absent = []
        present = self.present()
        for start, end in merge_ranges(ranges):
            position = start
            for have_start, have_end in present:
                if have_end > position and have_start < end:
                    if have_start > position:
                        absent.append((position, have_start))
                    position = have_end
            if position < end:
                absent.append((position, end))
        return absent

    @contextmanager
    def filling(self) -> Iterator[int]:
        """Open the file for writing, as long as the whole one and with its header, under a lock against other processes.

        The header must have been written by `keep_header` before.

        Yields:
            The file's descriptor.
        """
        with WeakFileLock(self.path.with_name(f"{self.path.name}.lock")), explain_full_disk(self.path):
            first, _, text = self._header_path.read_bytes().partition(b"\n")
            if not self.path.is_file() or self.path.stat().st_size != int(first):
                # The recorded ranges describe a deleted file; discard them.
                self._ranges_path.unlink(missing_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                # Write the header after the length is set: a file that was cut short has none, so it is never taken for whole.
                os.ftruncate(descriptor, int(first))
                os.pwrite(descriptor, len(text).to_bytes(8, "little") + text, 0)
                yield descriptor
            finally:
                os.close(descriptor)

    def record(self, descriptor: int, arrived: Range) -> None:
        """Record that a range has been written, after its bytes are on the disk.

        Args:
            descriptor: the file's descriptor, from `filling`.
            arrived: first byte, and one past the last.
        """
        os.fsync(descriptor)
        with self._record_lock, self._ranges_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(arrived) + "\n")


def _ranges(lines: list[str]) -> Iterator[Range]:
    for line in lines:
        try:
            start, end = json.loads(line)
            is_range = type(start) is int and type(end) is int
        except (ValueError, TypeError, RecursionError):
            # A process was killed while it wrote this line.
            continue
        if is_range:
            yield start, end
