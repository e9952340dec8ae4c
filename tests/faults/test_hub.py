"""A hub that refuses, breaks off, sends garbage, or signs the addresses of its files."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from omegaconf import OmegaConf

from splitlearn.checkpoint import CheckpointSource, hub_download, hub_ranges
from splitlearn.loading import ModelRequest
from splitlearn.settings import conf_folder
from tests.hub_server import HubServer, serving_this_process

SIGNATURE = "?X-Amz-Signature=SIGNATURE&Policy=abc"
TENSOR = "model.layers.3.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("llama", tie_word_embeddings=False)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving_this_process({"someone/tiny": folder}, tmp_path, monkeypatch) as running:
        running.signature = SIGNATURE
        yield running


def load() -> None:
    ModelRequest("someone/tiny", 2, 4).open().load()


def shard_of(folder: Path) -> str:
    return CheckpointSource(folder).weight_map[TENSOR]


def test_signatures_are_not_logged(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    """Fault: the hub redirects to signed addresses. Promise: no log but that of debugging tells the signature."""
    with caplog.at_level(logging.INFO):
        load()
    requests = [record.getMessage() for record in caplog.records if hub.storage_endpoint in record.getMessage()]
    assert requests, "the client's request lines came, as they do where a user asks for them"
    assert not [line for line in requests if "SIGNATURE" in line]


def test_runs_log_no_request_lines() -> None:
    """Fault: the HTTP client tells each request. Promise: neither the terminal nor `train.log` of a run shows them."""
    loggers = OmegaConf.load(conf_folder() / "train.yaml").hydra.job_logging.loggers
    clients = {hub_ranges._CLIENT.__name__, "httpx", "httpx2"}
    assert {name: loggers[name].level for name in clients} == dict.fromkeys(clients, "WARNING")


@pytest.mark.parametrize("status", [403, 404, 418, 503])
def test_refusals_do_not_tell_the_signature(
    hub: HubServer, folder: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault: the storage behind a signed address refuses. Promise: no error, cause or warning tells the signature."""
    hub.failures[shard_of(folder)] = [status] * 99
    with pytest.raises(FileNotFoundError) as raised:
        load()
    assert "SIGNATURE" not in "".join(traceback.format_exception(raised.value)) + caplog.text
    assert len(str(raised.value).splitlines()) == 1


def test_three_retries_are_three(hub: HubServer, folder: Path) -> None:
    """Fault: the storage always fails. Promise: it is asked again three times, and the message says so."""
    shard = shard_of(folder)
    hub.failures[shard] = [503] * 99
    with pytest.raises(FileNotFoundError, match=f"the hub failed to send {shard} of someone/tiny after 3 retries"):
        load()
    assert hub.requests[shard] == 4


def test_waiting_is_left_to_the_hubs_client(hub: HubServer, folder: Path) -> None:
    """Fault: the hub asks to wait without end. Promise: one round of retries, and the message tells their true number."""
    shard = shard_of(folder)
    hub.failures[shard] = [429] * 99
    with pytest.raises(FileNotFoundError, match=f"of someone/tiny after {hub_download._HUB_RETRIES} retries"):
        load()
    assert hub.requests[shard] == 1 + hub_download._HUB_RETRIES


def test_a_body_that_is_always_cut_short(hub: HubServer, folder: Path) -> None:
    """Fault: each download of a file breaks off. Promise: an end, and one sentence that names the file."""
    shard = shard_of(folder)
    hub.cuts[shard] = [0] * 99
    with pytest.raises(FileNotFoundError, match=shard) as raised:
        load()
    assert len(str(raised.value).splitlines()) == 1


def test_a_body_that_is_cut_short_once(hub: HubServer, folder: Path) -> None:
    """Fault: one download breaks off. Promise: it is taken up, and the model is loaded."""
    hub.cuts[shard_of(folder)] = [1000]
    load()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Run a server that sends the same bytes to whoever connects."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff garbage\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope",
        b"HTTP/1.1 302 Found\r\nLocation: ://\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Repo-Commit: ../../../x\r\nETag: ../../y\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ],
)
def test_garbage(hub: HubServer, answer: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fault: what answers is no hub. Promise: FileNotFoundError or CheckpointError in one sentence, and nothing is written."""
    with answering(answer) as endpoint:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        hub_download.commit_of.cache_clear()
        with pytest.raises(FileNotFoundError) as raised:
            load()
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.rglob("x")) and not list(tmp_path.rglob("y"))
