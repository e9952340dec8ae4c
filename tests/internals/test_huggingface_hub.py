"""What of huggingface_hub is not public and this library uses."""

from __future__ import annotations

import pytest
from huggingface_hub.file_download import repo_folder_name

from tests.internals.relied_upon import Internal, check

UTILS = "huggingface_hub.utils"
STREAM = ("method", "url", "max_retries", "retry_on_exceptions", "retry_on_status_codes")

INTERNALS = [
    Internal("huggingface_hub", "_CACHED_NO_EXIST", "whether the cache knows that a repository lacks a file"),
    Internal(
        "huggingface_hub.file_download", "repo_folder_name", "a repository's place in the cache", ("repo_id", "repo_type")
    ),
    Internal(UTILS, "WeakFileLock", "one process at a time in a file with holes", ("lock_file",)),
    Internal(UTILS, "build_hf_headers", "the token and the user agent of a request"),
    Internal(UTILS, "hf_raise_for_status", "the hub's errors with their reasons", ("response",)),
    Internal(UTILS, "http_backoff", "how often the hub's own requests are tried again", ("max_retries",)),
    Internal(UTILS, "http_stream_backoff", "a stream of bytes that is tried again", STREAM),
    Internal(UTILS, "tqdm", "the hub's own bar, turned off with its others"),
]


@pytest.mark.parametrize("internal", INTERNALS, ids=str)
def test_it_is_there(internal: Internal) -> None:
    check("huggingface_hub", internal)


def test_a_repositorys_folder_is_named_as_before() -> None:
    assert repo_folder_name(repo_id="Qwen/Qwen2-7B", repo_type="model") == "models--Qwen--Qwen2-7B"
