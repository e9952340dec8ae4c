"""A run's connections to its servers, without servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splitlearn.app import compose
from splitlearn.app.connecting import ConnectedServer, connected
from splitlearn.app.placing import resolve_placement


@contextmanager
def connecting(folder: Path, is_shared: bool, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[list[ConnectedServer]]:
    connection = SimpleNamespace(party="the server", close=lambda: None)
    part = SimpleNamespace(welcome=SimpleNamespace(is_shared=is_shared))
    monkeypatch.setattr("splitlearn.parties.GrpcConnection", lambda *args, **settings: connection)
    monkeypatch.setattr("splitlearn.parties.join_parts", lambda *args: {"trunk": part})
    rounds = ["placement=splitfed_v1", "placement.clients=[alice,bob]", f"placement.rounds.folder={folder}"]
    cfg = compose(*rounds, "placement.server=localhost:1")
    module: Any = SimpleNamespace(settings=None, generators=None, connect=lambda parts: None)
    opened: Any = None
    with connected(cfg, resolve_placement(cfg, elsewhere=True), module, opened, "run", **how) as servers:
        yield servers


def test_rounds_want_a_server_of_several_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connecting(tmp_path, True, monkeypatch) as servers:
        assert [server.party for server in servers] == ["server"]
    with (
        pytest.raises(ValueError, match=r"placement.rounds.folder is set, but the server trains its part with one client"),
        connecting(tmp_path, False, monkeypatch),
    ):
        pass


def test_a_run_of_rounds_is_measured_at_a_server_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that several clients train serves no client that only measures."""
    with connecting(tmp_path, False, monkeypatch, measures=True) as servers:
        assert len(servers) == 1
