"""A local server that answers huggingface_hub like a model hub, and remembers what it was asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves one folder as the files of one repository.

    Args:
        folder: the repository's files.
        repo_id: its name.
    """

    def __init__(self, folder: Path, repo_id: str) -> None:
        self.folder = folder
        self.repo_id = repo_id
        self.downloads: list[str] = []
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
        if path.startswith(f"/api/models/{hub.repo_id}"):
            files = [{"rfilename": each.name} for each in sorted(hub.folder.iterdir())]
            self._send(json.dumps({"id": hub.repo_id, "sha": COMMIT, "siblings": files}).encode(), with_body)
            return
        prefix = f"/{hub.repo_id}/resolve/"
        if not path.startswith(prefix):
            self._refuse("RepoNotFound")
            return
        file = hub.folder / path[len(prefix) :].split("/", 1)[1]
        if not file.is_file():
            self._refuse("EntryNotFound")
            return
        if with_body:
            hub.downloads.append(file.name)
        self._send(file.read_bytes(), with_body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
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
