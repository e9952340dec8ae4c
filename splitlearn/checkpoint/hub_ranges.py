"""Reading byte ranges of a file on a hub over HTTP, and checking that they are the requested bytes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from splitlearn.checkpoint.errors import CheckpointError

Sink = Callable[[int, bytes], None]

# Errors of huggingface_hub's HTTP client when a connection fails. The client depends on its release, so find the
# client's module through the base class of the hub's own error.
_CLIENT = sys.modules[HfHubHTTPError.__mro__[1].__module__.split(".")[0]]
TRANSPORT_ERRORS: tuple[type[Exception], ...] = (_CLIENT.TransportError,)
# Base class of all errors of the client.
CLIENT_ERROR: type[Exception] = _CLIENT.HTTPError

MAX_RETRIES = 3
_RETRY_AFTER_S = 1.0
# A connection that breaks before it has sent this much counts as failed; otherwise a server that sends single bytes would be
# retried for ever.
_PROGRESS_BYTES = 64 * 2**10
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class RangesRefusedError(Exception):
    """The server ignores the requested range and sends the whole file."""


class RemoteFile:
    """One file on a hub, of which byte ranges are read.

    The address names a commit, so its content cannot change: length and ETag must be the same in every response. The client
    follows redirects, and drops the token when one leads away from the hub.

    Args:
        url: the file's address at the hub, with its commit.

    Attributes:
        size_bytes: length of the file in bytes; None until a range has been read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._etag: str | None = None
        self.size_bytes: int | None = None

    def read(self, start: int, end: int, sink: Sink) -> None:
        """Read the bytes from ``start`` up to ``end``, or to the end of the file if that comes first.

        A connection that breaks is resumed where it broke; one that has sent less than 64 KiB is tried three times more.

        Args:
            start: the first byte.
            end: one past the last.
            sink: called with the place and content of each piece, in order.

        Raises:
            RangesRefusedError: the server cannot send ranges.
            CheckpointError: the response is not the requested range, or the file changed meanwhile.
            HfHubHTTPError: the hub refuses, or still fails after three retries.
        """
        position, failures = start, 0
        while position < end and (self.size_bytes is None or position < self.size_bytes):
            begin = position
            try:
                for piece in self._stream(position, end):
                    sink(position, piece)
                    position += len(piece)
            except TRANSPORT_ERRORS:
                failures = 0 if position - begin >= _PROGRESS_BYTES else failures + 1
                if failures > MAX_RETRIES:
                    raise
                time.sleep(_RETRY_AFTER_S)

    def _stream(self, start: int, end: int) -> Any:
        headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        if self._etag is not None:
            headers["If-Range"] = self._etag
        request = http_stream_backoff(
            "GET",
            self._url,
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            max_retries=MAX_RETRIES,
            retry_on_exceptions=(),
            retry_on_status_codes=(408, 429, 500, 502, 503, 504),
        )
        with request as response:
            if response.status_code == 416:
                raise CheckpointError(
                    f"{self._url} has no bytes {start:,} to {end - 1:,}; the file is not what its header says"
                )
            hf_raise_for_status(response)
            expected = self._check(response, start, end)
            received = 0
            for piece in response.iter_raw():
                received += len(piece)
                if received > expected:
                    raise CheckpointError(f"{self._url} sent more than the {expected:,} bytes that it announced")
                yield piece

    def _check(self, response: Any, start: int, end: int) -> int:
        """Return the length of the response in bytes, or raise if it does not answer the request."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if response.status_code != 206 or encoding != "identity":
            if self._etag is not None and response.headers.get("ETag") not in (None, self._etag):
                raise CheckpointError(f"{self._url} changed while it was read; load it again")
            raise RangesRefusedError(self._url)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        first, last, size = (int(number) for number in match.groups()) if match else (-1, -1, -1)
        if match is None or first != start or last != min(end, size) - 1:
            raise CheckpointError(
                f"{self._url} was asked for bytes {start}-{end - 1} and sent {response.headers.get('Content-Range')!r}"
            )
        etag = response.headers.get("ETag")
        if self.size_bytes not in (None, size) or (self._etag is not None and etag != self._etag):
            raise CheckpointError(f"{self._url} changed while it was read; load it again")
        self.size_bytes = size
        # A weak ETag does not guarantee equal bytes, and servers must ignore it in If-Range.
        self._etag = etag if etag and not etag.startswith("W/") else None
        return last - first + 1
