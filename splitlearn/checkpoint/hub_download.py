"""Downloading whole files from a model hub, looking up the commit of a branch, and explaining failures."""

from __future__ import annotations

import functools
import inspect
import re
import time
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import http_backoff

from splitlearn.checkpoint.adapter_beside import ADAPTER_FILE, only_adapter
from splitlearn.checkpoint.errors import AbsentFileError, CheckpointError, UnreachableFileError
from splitlearn.checkpoint.hub_ranges import CLIENT_ERROR, MAX_RETRIES, TRANSPORT_ERRORS
from splitlearn.checkpoint.main_file import CONFIG_FILE
from splitlearn.redaction import reason_of, redact, redact_download_logs

redact_download_logs()

_RETRY_AFTER_S = (1.0, 2.0, 4.0)
# Retries that huggingface_hub makes by itself for some requests.
_HUB_RETRIES: int = inspect.signature(http_backoff).parameters["max_retries"].default
_COMMIT = re.compile(r"[0-9a-f]{40}")

_CONNECTION_ERRORS: tuple[type[Exception], ...] = (OfflineModeIsEnabled, *TRANSPORT_ERRORS)
# CLIENT_ERROR includes all other faults that the client finds in a response.
HUB_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError, CLIENT_ERROR, *_CONNECTION_ERRORS)
# OSError: bodies cut short, and responses without the hub's headers. ValueError: malformed names and numbers.
_DOWNLOAD_ERRORS: tuple[type[Exception], ...] = (*HUB_ERRORS, EntryNotFoundError, OSError, ValueError)


@functools.cache
def commit_of(name: str, revision: str | None) -> str:
    """Return the commit that a revision of a repository stands for, the same for the whole process.

    Args:
        name: the repository's id.
        revision: a branch, tag or commit; None is the main branch.

    Raises:
        FileNotFoundError: there is no such repository or revision, or the hub refuses or cannot be reached.
        CheckpointError: the repository holds a PEFT adapter and no model.
    """
    # Every model has a configuration, and the hub's cache names its folder after the commit.
    try:
        return download(name, CONFIG_FILE, revision).parent.name
    except AbsentFileError:
        _refuse_bare_adapter(name, revision)
        raise
    except UnreachableFileError:
        commit = _cached_reference(name, revision)
        if commit is None:
            raise
        return download(name, CONFIG_FILE, commit).parent.name


def _refuse_bare_adapter(name: str, revision: str | None) -> None:
    """Refuse a repository that holds an adapter instead of a model."""
    try:
        path = download(name, ADAPTER_FILE, revision)
    except FileNotFoundError:
        return
    raise CheckpointError(only_adapter(name, path))


def _cached_reference(name: str, revision: str | None) -> str | None:
    """Return the commit that the cache notes for a branch or tag, without the white space that editors and copies add."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    path = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return commit if _COMMIT.fullmatch(commit) else None


def download(name: str, file: str, revision: str | None) -> Path:
    """Return the path of a whole file in the hub's cache, and download it first if it is not there.

    Args:
        name: the repository's id.
        file: the file's name in the repository.
        revision: a branch, tag or commit; None is the main branch.

    Raises:
        FileNotFoundError: the repository has no such file, or the hub refuses or cannot be reached.
        OSError: this machine's disk is at fault.
    """
    # huggingface_hub itself waits and retries when the hub cannot be reached or answers "too many requests". It gives up at
    # once on server errors and on bodies cut short in the middle of a download, so those are retried here.
    waits_s = list(_RETRY_AFTER_S)
    while True:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except _DOWNLOAD_ERRORS as error:
            if _is_of_this_machine(error):
                raise
            if not waits_s or not (_is_cut_short(error) or (_is_transient(error) and not _hub_tried_again(error))):
                raise explained(error, name, file, _HUB_RETRIES if _hub_tried_again(error) else MAX_RETRIES) from error
            time.sleep(waits_s.pop(0))


def explained(error: Exception, name: str, file: str, retries: int = MAX_RETRIES) -> FileNotFoundError:
    """Return an exception that says in one sentence why a file cannot be downloaded; queries of addresses are redacted.

    Args:
        error: the exception that was raised, which is redacted in place.
        name: the repository's id.
        file: the file.
        retries: the number of retries to name in the sentence.

    Returns:
        An exception to raise.
    """
    redact(error)
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return AbsentFileError(f"{name} on the hub has no file {file}")
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return UnreachableFileError(
            f"{name} is no local folder, its {file} is not in the hub's cache, and the hub cannot be reached"
        )
    if isinstance(error, TRANSPORT_ERRORS):
        return UnreachableFileError(
            f"{name} is no local folder, its {file} is not in the hub's cache, and the hub cannot be reached "
            f"({reason_of(error)})"
        )
    if isinstance(error, GatedRepoError) or _status(error) in (401, 403):
        return FileNotFoundError(
            f"the hub does not give out {name} without leave: accept its licence there and log in with `hf auth login`"
        )
    if _is_transient(error):
        return FileNotFoundError(f"the hub failed to send {file} of {name} after {retries} retries")
    if _is_cut_short(error):
        return FileNotFoundError(f"{file} of {name} arrived cut short, also after {MAX_RETRIES} retries; try again later")
    return FileNotFoundError(f"{name} is no local folder and cannot be had from the hub: {reason_of(error)}")


def _is_of_this_machine(error: Exception) -> bool:
    """Whether this machine's disk is at fault, and not the hub: the system's errors have a number."""
    return isinstance(error, OSError) and error.errno is not None


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    return status is not None and (status >= 500 or status in (408, 429))


def _is_cut_short(error: Exception) -> bool:
    """Whether a body was shorter than announced: huggingface_hub raises a plain OSError."""
    return type(error) is OSError and "should be of size" in str(error)


def _hub_tried_again(error: Exception) -> bool:
    """Whether huggingface_hub retried this request itself: requests before a download, and those it was told to delay."""
    response = getattr(error, "response", None)
    return _status(error) in (408, 429) or (response is not None and response.request.method == "HEAD")
