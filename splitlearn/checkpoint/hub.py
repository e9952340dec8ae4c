"""The files of one repository on a model hub, at one commit: whole, or only the needed tensors of them."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    _CACHED_NO_EXIST,
    cached_assets_path,
    get_hf_file_metadata,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.utils import tqdm

from splitlearn.checkpoint.errors import AbsentFileError, CheckpointError
from splitlearn.checkpoint.header import LENGTH_BYTES, FileHeader, header_length, read_header
from splitlearn.checkpoint.hub_download import HUB_ERRORS, commit_of, download, explained
from splitlearn.checkpoint.hub_ranges import RangesRefusedError, RemoteFile
from splitlearn.checkpoint.partial_file import PartialFile, Range, merge_ranges
from splitlearn.checkpoint.shard import Shard, open_partial_shard, open_shard

# Most headers fit; a longer one costs a second request.
_FIRST_READ_BYTES = 128 * 2**10
# If this share of a file is needed, fetch it whole, into the cache that other programs use too.
_WHOLE_FROM = 0.99
# Joining ranges over small gaps saves requests.
_GAP_BYTES = 16 * 2**10
# An interruption loses at most one piece for each connection.
_PIECE_BYTES = 32 * 2**20
_CONNECTIONS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class HubRepository:
    """One repository at one commit, which is looked up once, when the first file is needed.

    Args:
        name: its id, such as ``"Qwen/Qwen2-7B"``.
        revision: a branch, tag or commit; None is the main branch.

    Attributes:
        downloaded_bytes: bytes of weights that were downloaded so far.
    """

    is_local = False

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name = name
        self._revision = revision
        self._remote_files: dict[str, RemoteFile] = {}
        self.downloaded_bytes = 0

    @property
    def commit(self) -> str:
        """The commit that the revision stands for, the same for every repository object of this process.

        Raises:
            FileNotFoundError: there is no such repository or revision, or the hub refuses or cannot be reached.
        """
        return commit_of(self.name, self._revision)

    def fetch(self, file: str) -> Path:
        """Return the local path of a whole file; a downloaded one is checked against its sha256 if the hub gives that.

        Args:
            file: its name in the repository.

        Raises:
            FileNotFoundError: the repository has no such file, or the hub refuses or cannot be reached.
            CheckpointError: the downloaded file differs from the hub's.
        """
        cached = self._cached(file)
        if cached is not None:
            return cached
        path = download(self.name, file, self.commit)
        self._verify(file, path)
        if _holds_weights(file):
            self.downloaded_bytes += path.stat().st_size
        return path

    def exists(self, file: str) -> bool:
        """Whether the repository has a file, which is not downloaded.

        Args:
            file: its name in the repository.

        Raises:
            FileNotFoundError: the file is not in the cache and the hub cannot be asked.
        """
        try:
            if self._cached(file) is not None or self._partial(file).header() is not None:
                return True
            url = hf_hub_url(self.name, file, revision=self.commit)
            self._asking(file, lambda: get_hf_file_metadata(url, retry_on_errors=True))
        except AbsentFileError:
            return False
        return True

    def list_weights(self) -> Sequence[str]:
        """Return nothing: a repository's other files are not listed."""
        return ()

    def header(self, file: str) -> FileHeader:
        """Return the header of a safetensors file; of a file that is not in the cache only the first bytes are downloaded.

        Args:
            file: its name in the repository.

        Raises:
            FileNotFoundError: the repository has no such file, or the hub refuses or cannot be reached.
            CheckpointError: the file is damaged or not a safetensors file.
        """
        cached = self._cached(file)
        if cached is not None:
            return read_header(cached)
        partial = self._partial(file)
        kept = partial.header()
        if kept is not None:
            return kept
        try:
            return self._asking(file, lambda: self._download_header(file, partial))
        except RangesRefusedError:
            return read_header(self.fetch(file))

    def open(self, file: str, names: Collection[str] | None = None) -> Shard:
        """Open a file of weights, and download the tensors that are needed.

        Args:
            file: its name in the repository.
            names: the tensors that will be read; None means all. Of a safetensors file with many others only these are
                downloaded, unless the server cannot send ranges.

        Returns:
            The opened file; tensors that were not downloaded cannot be read from it.

        Raises:
            FileNotFoundError: the repository has no such file, or the hub refuses or cannot be reached.
            CheckpointError: the file is damaged or not what its header says.
        """
        if names is None or not file.endswith(".safetensors") or self._cached(file) is not None:
            return open_shard(self.fetch(file))
        ranges, is_most = self._ranges(file, names)
        partial = self._partial(file)
        if partial.missing(ranges):
            if is_most:
                return open_shard(self.fetch(file))
            try:
                self._asking(file, lambda: self._download_ranges(file, partial, ranges))
            except RangesRefusedError:
                return open_shard(self.fetch(file))
        return open_partial_shard(partial.path, frozenset(names))

    def missing_bytes(self, file: str, names: Collection[str]) -> int:
        """Return how many bytes `open` would download.

        Args:
            file: its name in the repository.
            names: the tensors that would be read.

        Raises:
            FileNotFoundError: the repository has no such file, or the hub refuses or cannot be reached.
            CheckpointError: the file is damaged or not a safetensors file.
        """
        if self._cached(file) is not None:
            return 0
        ranges, is_most = self._ranges(file, names)
        missing = self._partial(file).missing(merge_ranges(ranges, _GAP_BYTES))
        return self.header(file).file_bytes if missing and is_most else sum(end - start for start, end in missing)

    def _ranges(self, file: str, names: Collection[str]) -> tuple[list[Range], bool]:
        """Return the ranges of tensors in a file, and whether they are so much of it that the whole file is fetched."""
        tensors = self.header(file).tensors
        ranges = [(tensors[name].start, tensors[name].end) for name in names if name in tensors]
        wanted_bytes = sum(end - start for start, end in ranges)
        return ranges, wanted_bytes >= _WHOLE_FROM * sum(tensor.num_bytes for tensor in tensors.values())

    def _cached(self, file: str) -> Path | None:
        cached = try_to_load_from_cache(self.name, file, revision=self.commit)
        if cached is _CACHED_NO_EXIST:
            # The cache records that the hub reported this file absent at this commit.
            raise AbsentFileError(f"{self.name} on the hub has no file {file}")
        return Path(cached) if isinstance(cached, str) else None

    def _partial(self, file: str) -> PartialFile:
        namespace = f"models--{self.name.replace('/', '--')}"
        return PartialFile(Path(cached_assets_path("splitlearn", namespace=namespace, subfolder=self.commit)) / file)

    def _remote(self, file: str) -> RemoteFile:
        if file not in self._remote_files:
            self._remote_files[file] = RemoteFile(hf_hub_url(self.name, file, revision=self.commit))
        return self._remote_files[file]

    def _asking(self, file: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except HUB_ERRORS as error:
            raise explained(error, self.name, file) from error

    def _download_header(self, file: str, partial: PartialFile) -> FileHeader:
        remote, content = self._remote(file), bytearray()
        remote.read(0, _FIRST_READ_BYTES, lambda _, piece: content.extend(piece))
        end = LENGTH_BYTES + header_length(bytes(content[:LENGTH_BYTES]), f"{self.name}/{file}")
        if end > len(content):
            remote.read(len(content), end, lambda _, piece: content.extend(piece))
        return partial.keep_header(bytes(content[LENGTH_BYTES:end]), remote.size_bytes or 0)

    def _download_ranges(self, file: str, partial: PartialFile, ranges: Iterable[Range]) -> None:
        remote = self._remote(file)
        needed = merge_ranges(ranges, _GAP_BYTES)
        with partial.filling() as descriptor:
            # Check again under the lock: another process may have fetched them meanwhile.
            pieces = _pieces(partial.missing(needed))
            total = sum(end - start for start, end in pieces)
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"{file} (needed tensors)") as bar:

                def get(piece: Range, is_stopped: Callable[[], bool]) -> None:
                    arrived = piece[0]

                    def write(position: int, content: bytes) -> None:
                        nonlocal arrived
                        if is_stopped():
                            raise CancelledError
                        _write(descriptor, position, content)
                        arrived = position + len(content)
                        bar.update(len(content))

                    try:
                        remote.read(*piece, write)
                    finally:
                        if arrived > piece[0]:
                            partial.record(descriptor, (piece[0], arrived))

                _in_parallel(get, pieces)
        self.downloaded_bytes += total

    def _verify(self, file: str, path: Path) -> None:
        if not _holds_weights(file):
            return
        url = hf_hub_url(self.name, file, revision=self.commit)
        etag = self._asking(file, lambda: get_hf_file_metadata(url, retry_on_errors=True)).etag or ""
        if not _SHA256.fullmatch(etag):
            return
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != etag:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
            raise CheckpointError(
                f"{file} of {self.name} arrived damaged (its sha256 is not the hub's) and was deleted; try again"
            )


def _holds_weights(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _pieces(ranges: Iterable[Range]) -> list[Range]:
    return [(begin, min(begin + _PIECE_BYTES, end)) for start, end in ranges for begin in range(start, end, _PIECE_BYTES)]


def _write(descriptor: int, position: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _in_parallel(work: Callable[[Range, Callable[[], bool]], None], pieces: list[Range]) -> None:
    """Do the work in the order of the pieces, a few at a time; the first failure or an interruption stops all of it."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="download")
    try:
        for _ in pool.map(lambda piece: work(piece, stop.is_set), pieces):
            pass
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
