"""What messages and logs must not say: the query of an address, which may be a signature that opens a file to whoever has it.

Model hubs redirect downloads to addresses that are signed for some minutes. Such an address gives the file to anybody.
"""

from __future__ import annotations

import logging
import re

# Scheme and path of an address, without a user's name and password; then its query, and a fragment.
_ADDRESS = re.compile(r"(?P<scheme>\bhttps?://)(?:[^\s/?#'\"<>@]*@)?(?P<path>[^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
_MAX_REASON = 300
# Of these libraries' loggers, by the names of both generations.
_LOGGERS = ("huggingface_hub.file_download", "huggingface_hub.utils._http", "httpx", "httpx2", "urllib3.connectionpool")


def without_queries(text: str) -> str:
    """Return a text whose addresses have lost their queries, and names and passwords of users."""
    return _ADDRESS.sub(r"\g<scheme>\g<path>", text)


def printable(text: str) -> str:
    """Return a text in one line: a name out of a stranger's file may hold signs that steer a terminal."""
    return "".join(sign if sign.isprintable() else " " if sign.isspace() else "?" for sign in text)


def reason_of(error: BaseException) -> str:
    """Return what another library's error says, as a part of a sentence: one line, not too long, no query of an address."""
    said = " ".join(without_queries(str(error)).split())
    shown = printable(said[: _MAX_REASON + 1])
    return (shown if len(shown) <= _MAX_REASON else f"{shown[:_MAX_REASON]}...") or type(error).__name__


def redact(error: BaseException) -> None:
    """Take the queries of addresses out of an error, and out of those that led to it, so that a traceback has none either."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.args = tuple(without_queries(value) if isinstance(value, str) else value for value in current.args)
        waiting += [current.__cause__, current.__context__]


class QueryFilter(logging.Filter):
    """Takes the queries of addresses out of log records; those for debugging keep them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record's addresses; every record passes."""
        if record.levelno > logging.DEBUG:
            message = record.getMessage()
            shortened = without_queries(message)
            if shortened != message:
                record.msg, record.args = shortened, None
        return True


def redact_download_logs() -> None:
    """Have the loggers of the libraries that download files leave out queries."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, QueryFilter) for present in logger.filters):
            logger.addFilter(QueryFilter())
