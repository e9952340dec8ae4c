"""Wrong certificates and addresses end in one sentence, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from splitlearn.certificates import Identity
from splitlearn.parties import (
    GrpcConnection,
    PartyLostError,
    Patience,
    WireLimits,
    add_port,
    check_target,
    open_channel,
)
from tests.parties.conftest import LIMITS, QUICK, Serve, hello

Identify = Callable[..., Identity]
ROOT = Path(__file__).parents[2]


def refusal(target: str, identity: Identity | None) -> str:
    """The sentence of a connection that is not opened, which comes at once."""
    began = time.monotonic()
    with pytest.raises(PartyLostError) as error:
        GrpcConnection(target, identity, replace(QUICK, connect=60.0), LIMITS).post(hello())
    assert time.monotonic() - began < 30, "no certificate becomes right by waiting"
    assert str(error.value).isprintable()
    return str(error.value)


def test_a_client_of_another_authority_is_told_to_compare(serve: Serve, identity: Identify) -> None:
    target = serve().target
    ours, theirs = identity("alice"), identity("alice", "theirs")
    said = refusal(target, theirs)
    assert f"the certificate of the server at {target} was not signed by the authority of alice, whose SHA-256 is" in said
    assert theirs.fingerprint in said
    # The server alone sees that this one is wrong, and says nothing.
    said = refusal(target, replace(theirs, authority=ours.authority))
    assert f"the server at {target} closed the connection, as it does if it does not accept the certificate of alice" in said
    assert theirs.fingerprint in said


def test_a_client_in_the_clear_is_told_of_tls(serve: Serve) -> None:
    said = refusal(serve().target, None)
    assert "closed a connection in the clear: it expects TLS, so give this party's certificates" in said


def test_a_client_that_knows_the_server_by_another_name_is_told_the_name(serve: Serve, identity: Identify) -> None:
    said = refusal(f"127.0.0.1:{serve().port}", identity("alice"))
    assert "does not name 127.0.0.1: use a name that it has, or have one made with hosts=[127.0.0.1]" in said


def test_a_servers_certificate_is_no_clients(serve: Serve, identity: Identify) -> None:
    assert "closed the connection" in refusal(serve().target, identity("server"))


def test_a_clients_certificate_is_no_servers(serve: Serve, identity: Identify) -> None:
    """A client cannot pass for the server towards other clients."""
    said = refusal(serve(own=identity("alice")).target, identity("bob"))
    assert "was not signed by the authority of bob" in said or "does not name localhost" in said


@pytest.fixture
def clear_port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    port = add_port(server, "localhost:0", None)
    server.start()
    yield port
    server.stop(0).wait()


def test_a_server_without_tls_or_of_another_kind_is_named(clear_port: int, identity: Identify) -> None:
    assert f"what listens at localhost:{clear_port} does not speak TLS" in refusal(f"localhost:{clear_port}", identity("alice"))
    assert f"what listens at localhost:{clear_port} is no server of a part" in refusal(f"localhost:{clear_port}", None)


def test_a_host_that_does_not_exist_is_named(identity: Identify) -> None:
    assert "there is no host nowhere.invalid" in refusal("nowhere.invalid:7443", identity("alice"))


def test_a_port_that_nobody_listens_at_is_tried_for_the_stated_time(identity: Identify) -> None:
    with pytest.raises(PartyLostError, match=r"localhost:1 cannot be reached \(Connection refused\); check"):
        GrpcConnection("localhost:1", identity("alice"), replace(QUICK, connect=0.3)).post(hello())


@pytest.mark.parametrize(
    "target", ["trunk.example.org", "trunk:port", ":7443", "trunk:70000", "http://trunk:7443", "::1:7443", "a:0"]
)
def test_what_is_no_address_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"is no address of a server; give HOST:PORT, such as trunk.example.org:7443"):
        check_target(target)


@pytest.mark.parametrize("target", ["trunk.example.org:7443", "10.0.0.1:1", "[::1]:7443"])
def test_addresses_are_accepted(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize("host", ["0.0.0.0", "trunk.example.org", "10.0.0.1", "[::]"])
def test_nothing_is_sent_in_the_clear_to_other_machines(host: str) -> None:
    with pytest.raises(ValueError, match="without certificates everybody on the way could read and change what is sent"):
        open_channel(f"{host}:7443", None, Patience(), WireLimits())
    with pytest.raises(ValueError, match="without certificates everybody"):
        add_port(grpc.server(ThreadPoolExecutor(1)), f"{host}:0", None)


def test_a_port_that_is_taken_is_refused(serve: Serve, identity: Identify) -> None:
    port = serve().port
    with pytest.raises(OSError, match=f"nobody can listen at localhost:{port}: another process has the port"):
        serve_options: Any = Patience().server_options(WireLimits())
        add_port(grpc.server(ThreadPoolExecutor(1), options=serve_options), f"localhost:{port}", identity("server"))


def test_times_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keepalive is 0; use 0.001 to 2,000,000 seconds"):
        Patience(keepalive=0)
    with pytest.raises(ValueError, match="answer is -1"):
        Patience(answer=-1)
    assert Patience(reconnect=0).reconnect == 0


def test_the_time_for_a_sign_of_life_is_said_in_both_ways() -> None:
    """gRPC takes 60 s for the second one, whatever the first is."""
    settings = Patience(keepalive=3, keepalive_timeout=2)
    for options in (dict(settings.client_options(WireLimits())), dict(settings.server_options(WireLimits()))):
        assert options["grpc.keepalive_time_ms"] == 3000
        assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 2000


@pytest.mark.parametrize("package", ["splitlearn.parties", "splitlearn.certificates"])
def test_a_machine_without_the_extra_is_told_in_one_sentence(package: str) -> None:
    absent = "cryptography" if package.endswith("certificates") else "grpc"
    code = f"""
import sys
sys.modules[{absent!r}] = None
try:
    import {package}
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "pip install 'splitlearn[parties]'" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
