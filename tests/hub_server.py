"""A local server that answers huggingface_hub like a model hub, and remembers what it was asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves folders as repositories.

    Args:
        repositories: the folder of each repository by its id.
        token: what clients must send to be given anything; None lets everybody in.

    Attributes:
        downloads: the files that were sent, in order.
        failures: for a file, the statuses to answer its next downloads with.
        requests: how often each file was asked for, refusals included.
    """

    def __init__(self, repositories: dict[str, Path], token: str | None = None) -> None:
        self.repositories = repositories
        self.token = token
        self.downloads: list[str] = []
        self.failures: dict[str, list[int]] = {}
        self.requests: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    hub: HubServer


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        hub = self.server.hub
        path = self.path.split("?")[0]
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "GatedRepo")
            return
        for repo_id, folder in hub.repositories.items():
            if path.startswith(f"/api/models/{repo_id}/tree/"):
                self._send(json.dumps([_describe(each) for each in sorted(folder.iterdir())]).encode(), with_body)
                return
            if path.startswith(f"/api/models/{repo_id}"):
                files = [{"rfilename": each.name} for each in sorted(folder.iterdir())]
                self._send(json.dumps({"id": repo_id, "sha": COMMIT, "siblings": files}).encode(), with_body)
                return
            if path.startswith(f"/{repo_id}/resolve/"):
                self._answer_file(folder / path.removeprefix(f"/{repo_id}/resolve/").split("/", 1)[1], with_body)
                return
        self._refuse(404, "RepoNotFound")

    def _answer_file(self, file: Path, with_body: bool) -> None:
        hub = self.server.hub
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        if with_body:
            hub.requests[file.name] += 1
            if hub.failures.get(file.name):
                self._refuse(hub.failures[file.name].pop(0), "")
                return
            hub.downloads.append(file.name)
        self._send(file.read_bytes(), with_body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def _describe(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
