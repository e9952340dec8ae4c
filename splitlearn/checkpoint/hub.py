"""The files of one repository on a model hub, at one commit: whole, or just the tensors of them that are needed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    cached_assets_path,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import tqdm

from splitlearn.checkpoint.errors import AbsentFileError, CheckpointError, UnreachableFileError
from splitlearn.checkpoint.header import LENGTH_BYTES, FileHeader, header_length, read_header
from splitlearn.checkpoint.hub_ranges import MAX_RETRIES, TRANSPORT_ERRORS, RangesRefusedError, RemoteFile
from splitlearn.checkpoint.partial_file import PartialFile, Range, merge_ranges
from splitlearn.checkpoint.shard import Shard, open_partial_shard, open_shard

_RETRY_AFTER_S = (1.0, 2.0, 4.0)
# Most headers fit; a longer one costs a second request.
_FIRST_READ_BYTES = 128 * 2**10
# From this share of a file on it is fetched whole, into the cache that other programs use too.
_WHOLE_FROM = 0.99
# Joining ranges over small gaps saves requests.
_GAP_BYTES = 16 * 2**10
# What an interruption loses at most, for each of the connections.
_PIECE_BYTES = 32 * 2**20
_CONNECTIONS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")

_CONNECTION_ERRORS: tuple[type[Exception], ...] = (OfflineModeIsEnabled, *TRANSPORT_ERRORS)
_HUB_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError, *_CONNECTION_ERRORS)

T = TypeVar("T")


class HubRepository:
    """One repository at one commit. Which commit is settled once, when the first file is needed.

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
            FileNotFoundError: there is no such repository or revision, or it cannot be had.
        """
        return _commit(self.name, self._revision)

    def fetch(self, file: str) -> Path:
        """Return the local path of a whole file; a downloaded one is checked against its sha256 if the hub gives that.

        Raises:
            FileNotFoundError: the repository has no such file, or it cannot be had.
            CheckpointError: what arrived is not what the hub has.
        """
        cached = self._cached(file)
        if cached is not None:
            return cached
        path = _download(self.name, file, self.commit)
        self._verify(file, path)
        if _holds_weights(file):
            self.downloaded_bytes += path.stat().st_size
        return path

    def header(self, file: str) -> FileHeader:
        """Return what a safetensors file holds; of a file that is not in the cache just its first bytes are downloaded.

        Raises:
            FileNotFoundError: the repository has no such file, or it cannot be had.
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
        """Open a file of weights, downloading what of it is needed.

        Args:
            file: its name.
            names: the tensors that will be read; None means all. Of a safetensors file that holds much else just these are
                downloaded, unless the server cannot do that.

        Raises:
            FileNotFoundError: the repository has no such file, or it cannot be had.
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

        Raises:
            FileNotFoundError: the repository has no such file, or it cannot be had.
            CheckpointError: the file is damaged or not a safetensors file.
        """
        if self._cached(file) is not None:
            return 0
        ranges, is_most = self._ranges(file, names)
        missing = self._partial(file).missing(merge_ranges(ranges, _GAP_BYTES))
        return self.header(file).file_bytes if missing and is_most else sum(end - start for start, end in missing)

    def _ranges(self, file: str, names: Collection[str]) -> tuple[list[Range], bool]:
        """Return where tensors lie in a file, and whether they are so much of it that the whole is to be fetched."""
        tensors = self.header(file).tensors
        ranges = [(tensors[name].start, tensors[name].end) for name in names if name in tensors]
        wanted_bytes = sum(end - start for start, end in ranges)
        return ranges, wanted_bytes >= _WHOLE_FROM * sum(tensor.num_bytes for tensor in tensors.values())

    def _cached(self, file: str) -> Path | None:
        found = try_to_load_from_cache(self.name, file, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

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
        except _HUB_ERRORS as error:
            raise _explained(error, self.name, file) from error

    def _download_header(self, file: str, partial: PartialFile) -> FileHeader:
        remote, content = self._remote(file), bytearray()
        remote.read(0, _FIRST_READ_BYTES, lambda _, piece: content.extend(piece))
        end = LENGTH_BYTES + header_length(bytes(content[:LENGTH_BYTES]), f"{self.name}/{file}")
        if end > len(content):
            remote.read(len(content), end, lambda _, piece: content.extend(piece))
        return partial.keep_header(bytes(content[LENGTH_BYTES:end]), remote.size_bytes or 0)

    def _download_ranges(self, file: str, partial: PartialFile, ranges: Iterable[Range]) -> None:
        remote = self._remote(file)
        wanted = merge_ranges(ranges, _GAP_BYTES)
        with partial.filling() as descriptor:
            # Looked at again: another process may have fetched them while this one waited.
            pieces = _pieces(partial.missing(wanted))
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


@functools.cache
def _commit(name: str, revision: str | None) -> str:
    # Every model has a configuration; the folder it comes to lie in is named after the commit.
    return _download(name, "config.json", revision).parent.name


def _download(name: str, file: str, revision: str | None) -> Path:
    # huggingface_hub itself waits and tries again when the hub cannot be reached or says "too many requests"; what it
    # gives up on at once are server errors in the middle of a download.
    waits_s = list(_RETRY_AFTER_S)
    while True:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except (EntryNotFoundError, HFValidationError, HfHubHTTPError) as error:
            if not waits_s or not _is_transient(error):
                raise _explained(error, name, file) from error
            time.sleep(waits_s.pop(0))


def _explained(error: Exception, name: str, file: str) -> FileNotFoundError:
    if isinstance(error, (LocalEntryNotFoundError, *_CONNECTION_ERRORS)):
        return UnreachableFileError(
            f"{name} is no local folder, its {file} is not in the hub's cache, and the hub cannot be reached"
        )
    if isinstance(error, EntryNotFoundError):
        return AbsentFileError(f"{name} on the hub has no file {file}")
    if isinstance(error, GatedRepoError) or _status(error) in (401, 403):
        return FileNotFoundError(
            f"the hub does not give out {name} without leave: accept its licence there and log in with `hf auth login`"
        )
    if _is_transient(error):
        return FileNotFoundError(f"the hub failed to send {file} of {name} after {MAX_RETRIES} retries")
    reason = str(error).strip().splitlines()[0]
    return FileNotFoundError(f"{name} is no local folder and cannot be had from the hub: {reason}")


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    return status is not None and (status >= 500 or status in (408, 429))


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
