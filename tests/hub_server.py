"""A local server that answers huggingface_hub like a model hub, and remembers what it was asked for.

Like the real one it sends large files from another host (here: another port), to which the hub only redirects.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from splitlearn.checkpoint import hub_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CHUNK_BYTES = 4096


class HubServer:
    """Serves folders as repositories.

    Args:
        repositories: the folder of each repository by its id.
        token: what clients must send to be given anything; None lets everybody in.

    Attributes:
        commit: what the main branch stands for.
        downloads: the files that were sent whole, in order.
        ranges: the file and the first and last byte of each range that was sent, in order.
        failures: for a file, the statuses to answer its next downloads with.
        retry_after_s: what answers with status 429 ask for.
        requests: how often each file was asked for, refusals included.
        cuts: for a file, after how many bytes to close the connection of its next downloads.
        pause_s: how long to wait before each 4 KiB of a large file.
        storage_tokens: the tokens that the storage was sent, which should be none.
        conditions: the If-Range headers that came, in order.
        ignores_ranges: send files whole whatever range is asked for.
        range_shift: by how many bytes ranges are wrong.
        etags: the storage's tags to give out next instead of the file's own.
        spoiled: files whose bytes arrive damaged.
        signature: the query of the addresses that the hub redirects to.
    """

    def __init__(self, repositories: dict[str, Path], token: str | None = None) -> None:
        self.repositories = repositories
        self.token = token
        self.commit = COMMIT
        self.downloads: list[str] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.failures: dict[str, list[int]] = {}
        self.retry_after_s: int | None = None
        self.requests: Counter[str] = Counter()
        self.cuts: dict[str, list[int]] = {}
        self.pause_s = 0.0
        self.storage_tokens: list[str] = []
        self.conditions: list[str] = []
        self.ignores_ranges = False
        self.range_shift = 0
        self.etags: list[str] = []
        self.spoiled: set[str] = set()
        self.signature = ""
        self._hub = _Server(("127.0.0.1", 0), _HubHandler)
        self._storage = _Server(("127.0.0.1", 0), _StorageHandler)
        self._hub.hub = self._storage.hub = self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def storage_endpoint(self) -> str:
        # Another host than the hub's: huggingface_hub < 2 tells the two apart by their hosts alone, whatever the ports.
        return f"http://localhost:{self._storage.server_port}"

    @property
    def sent_bytes(self) -> int:
        """Bytes of large files that were sent in ranges."""
        return sum(last - first + 1 for _, first, last in self.ranges)

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            for server in (self._hub, self._storage):
                server.shutdown()
                server.server_close()


@contextmanager
def serving_this_process(repositories: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Run a server that huggingface_hub asks in this process, which reads its settings when it is imported."""
    with HubServer(repositories).running() as running:
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.utils._cache_assets, "HF_ASSETS_CACHE", str(cache / "assets"))
        hub_download.commit_of.cache_clear()
        yield running
    hub_download.commit_of.cache_clear()


class _Server(ThreadingHTTPServer):
    hub: HubServer
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        raise NotImplementedError

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if status == 429 and self.server.hub.retry_after_s is not None:
            self.send_header("Retry-After", str(self.server.hub.retry_after_s))
        self.send_header("X-Repo-Commit", self.server.hub.commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _HubHandler(_Handler):
    def answer(self, with_body: bool) -> None:
        hub = self.server.hub
        # Data sets are asked for as models are, at addresses of their own.
        path = self.path.split("?")[0].replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.refuse(401, "GatedRepo")
            return
        for repo_id, folder in hub.repositories.items():
            if path.startswith(f"/api/models/{repo_id}/tree/"):
                self._send(json.dumps([_describe(each) for each in sorted(folder.iterdir())]).encode(), with_body)
                return
            if path.startswith(f"/api/models/{repo_id}"):
                files = [{"rfilename": each.name} for each in sorted(folder.iterdir())]
                self._send(json.dumps({"id": repo_id, "sha": hub.commit, "siblings": files}).encode(), with_body)
                return
            if path.startswith(f"/{repo_id}/resolve/"):
                revision, name = path.removeprefix(f"/{repo_id}/resolve/").split("/", 1)
                if revision not in ("main", hub.commit):
                    self.refuse(404, "RevisionNotFound")
                else:
                    self._answer_file(folder / name, with_body)
                return
        self.refuse(404, "RepoNotFound")

    def _answer_file(self, file: Path, with_body: bool) -> None:
        hub = self.server.hub
        if not file.is_file():
            self.refuse(404, "EntryNotFound")
        elif file.suffix == ".safetensors":
            self.send_response(302)
            self.send_header("Location", f"{hub.storage_endpoint}/{file.parent.name}/{file.name}{hub.signature}")
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
            self.send_header("X-Linked-Size", str(file.stat().st_size))
            self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            if with_body:
                hub.requests[file.name] += 1
                hub.downloads.append(file.name)
            self._send(file.read_bytes(), with_body)

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.hub.commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


class _StorageHandler(_Handler):
    def answer(self, with_body: bool) -> None:
        hub = self.server.hub
        folder_name, name = self.path.split("?")[0].strip("/").split("/", 1)
        folder = next(each for each in hub.repositories.values() if each.name == folder_name)
        if "Authorization" in self.headers:
            hub.storage_tokens.append(self.headers["Authorization"])
        if "If-Range" in self.headers:
            hub.conditions.append(self.headers["If-Range"])
        hub.requests[name] += 1
        if hub.failures.get(name):
            self.refuse(hub.failures[name].pop(0))
            return
        content = (folder / name).read_bytes()
        etag = hub.etags.pop(0) if hub.etags else f'"{hashlib.md5(content).hexdigest()}"'
        if name in hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 255])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        is_unchanged = self.headers.get("If-Range") in (None, etag)
        if asked is None or hub.ignores_ranges or not is_unchanged:
            hub.downloads.append(name)
            self._send_body(200, content, name, {"ETag": etag})
            return
        first = int(asked.group(1)) + hub.range_shift
        last = min(int(asked.group(2) or len(content)), len(content) - 1)
        hub.ranges.append((name, first, last))
        headers = {"ETag": etag, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send_body(206, content[first : last + 1], name, headers)

    def _send_body(self, status: int, body: bytes, name: str, headers: dict[str, str]) -> None:
        hub = self.server.hub
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        due = hub.cuts.get(name)
        body = body[: due.pop(0)] if due else body
        for start in range(0, len(body), _CHUNK_BYTES):
            time.sleep(hub.pause_s)
            self.wfile.write(body[start : start + _CHUNK_BYTES])


def _describe(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
