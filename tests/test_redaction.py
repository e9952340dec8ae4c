from __future__ import annotations

import logging
import traceback

import pytest

from splitlearn.redaction import QueryFilter, reason_of, redact, without_queries


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("GET https://host/a/b.safetensors?X-Amz-Signature=abc&Policy=d failed", "GET https://host/a/b.safetensors failed"),
        ("for 'http://host:80/a?b=c'", "for 'http://host:80/a'"),
        ("see https://user:word@host/a#part.", "see https://host/a"),
        ("is it there? or not", "is it there? or not"),
        ("https://host/a and https://host/b?c", "https://host/a and https://host/b"),
        ('http://host?key=1 "200 OK"', 'http://host "200 OK"'),
    ],
)
def test_addresses_lose_their_queries(text: str, shortened: str) -> None:
    assert without_queries(text) == shortened


def test_a_reason_is_one_short_line() -> None:
    assert reason_of(ValueError("one\n two\x1b[31m https://host/a?b=c")) == "one two?[31m https://host/a"
    assert reason_of(KeyError()) == "KeyError"
    assert len(reason_of(ValueError("long " * 1000))) < 310
    assert reason_of(ValueError("lone \ud800")) == "lone ?"


def test_a_traceback_has_no_query_either() -> None:
    cause = OSError("403 for https://host/a?secret")
    error = ValueError("not given: https://host/a?secret")
    error.__cause__ = cause
    redact(error)
    assert "secret" not in "".join(traceback.format_exception(error))
    assert str(cause) == "403 for https://host/a"


def test_debug_records_keep_queries(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("splitlearn.tests.redaction")
    logger.addFilter(QueryFilter())
    with caplog.at_level(logging.DEBUG, logger.name):
        logger.debug("GET %s", "https://host/a?secret")
        logger.info('HTTP Request: %s "%d"', "https://host/a?secret", 200)
    assert [record.getMessage() for record in caplog.records] == [
        "GET https://host/a?secret",
        'HTTP Request: https://host/a "200"',
    ]
