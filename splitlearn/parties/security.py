"""Connections between parties: mutual TLS, signs of life, and the meaning of a broken connection.

Both ends show a certificate, and each accepts only those of an authority that it trusts. To its server a client is the name in
its certificate.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import grpc

from splitlearn.certificates import Identity
from splitlearn.naming import named
from splitlearn.parties.wire_checks import WireLimits


@dataclass(frozen=True)
class Patience:
    """How long the two ends of a connection wait for each other. All are seconds.

    Args:
        keepalive: after so long without a word the other end is asked for a sign of life.
        keepalive_timeout: if none comes within this time, the connection is given up.
        connect: how long to try to reach a server.
        reconnect: how long to try to reach it again after the connection broke; 0 gives up at once.
        answer: the longest that an answer may take. A server that computes for longer counts as lost.

    Raises:
        ValueError: a time is not positive.
    """

    keepalive: float = 20.0
    keepalive_timeout: float = 20.0
    connect: float = 30.0
    reconnect: float = 60.0
    answer: float = 600.0

    def __post_init__(self) -> None:
        for name, seconds in vars(self).items():
            # gRPC keeps times as whole milliseconds in 31 bits.
            if not 0.001 <= seconds <= 2_000_000 and not (name == "reconnect" and seconds == 0):
                raise ValueError(f"{named(name)} is {seconds}; use 0.001 to 2,000,000 seconds")

    def client_options(self, limits: WireLimits) -> list[tuple[str, Any]]:
        """Return gRPC's options of a client's channel.

        Args:
            limits: the largest messages that are accepted from the server.
        """
        # gRPC would otherwise repeat a call that it could not deliver; `Connection` does, and knows which messages arrived.
        return [*self._both(limits), ("grpc.http2.max_pings_without_data", 0), ("grpc.enable_retries", 0)]

    def server_options(self, limits: WireLimits) -> list[tuple[str, Any]]:
        """Return gRPC's options of a server.

        Args:
            limits: the largest messages that are accepted from clients.
        """
        return [
            *self._both(limits),
            # Clients may ask for signs of life as often as they like: each counts only if it comes sooner than this.
            ("grpc.http2.min_ping_interval_without_data_ms", 1),
            ("grpc.http2.max_ping_strikes", 0),
            # Otherwise a second server on the same port would take half of the connections.
            ("grpc.so_reuseport", 0),
        ]

    def _both(self, limits: WireLimits) -> list[tuple[str, Any]]:
        timeout_ms = int(self.keepalive_timeout * 1000)
        return [
            ("grpc.max_receive_message_length", limits.max_frame_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            # It is 60 s unless it is said, and counts for more than keepalive_timeout_ms.
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


def open_channel(target: str, identity: Identity | None, settings: Patience, limits: WireLimits) -> grpc.Channel:
    """Return a channel to a server. It connects with the first call.

    Args:
        target: ``HOST:PORT``. The server's certificate must name the host.
        identity: who this party is; None sends all in the clear, on this machine alone.
        settings: how long to wait.
        limits: the largest messages that are accepted.

    Raises:
        ValueError: ``target`` is no address, or is on another machine and there are no certificates.
    """
    check_target(target)
    _refuse_clear_text(target, identity)
    options = settings.client_options(limits)
    if identity is None:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    return grpc.secure_channel(target, credentials, options)


def add_port(server: grpc.Server, address: str, identity: Identity | None) -> int:
    """Have a server listen.

    Args:
        server: it has not been started.
        address: ``HOST:PORT``; port 0 takes a free one.
        identity: who this party is. Clients must show a certificate of the same authority. None listens in the clear, on this
            machine alone.

    Returns:
        The port.

    Raises:
        ValueError: ``address`` is none, or is open to other machines and there are no certificates.
        OSError: the port is taken, or the host is none of this machine.
    """
    check_target(address, least_port=0)
    _refuse_clear_text(address, identity)
    try:
        if identity is None:
            port = server.add_insecure_port(address)
        else:
            pairs = [(identity.key, identity.certificate)]
            credentials = grpc.ssl_server_credentials(pairs, identity.authority, require_client_auth=True)
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(
            f"nobody can listen at {address}: another process has the port, or the host is none of this machine"
        ) from error
    return int(port)


def check_target(target: str, least_port: int = 1) -> None:
    """Refuse what is no address of a server.

    Args:
        target: ``HOST:PORT``; an IPv6 address stands in brackets.
        least_port: the smallest port.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = target.rpartition(":")
    is_right = colon and host and "/" not in host and (":" not in host or host.startswith("["))
    if not is_right or not port.isdecimal() or not least_port <= int(port) <= 65_535:
        raise ValueError(f"{target!r} is no address of a server; give HOST:PORT, such as trunk.example.org:7443")


def _refuse_clear_text(address: str, identity: Identity | None) -> None:
    host = address.rpartition(":")[0].strip("[]")
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if identity is None and not is_here:
        raise ValueError(
            f"{address} is not on this machine alone, and without certificates everybody on the way could read and change what "
            "is sent; give certificates, which `python -m splitlearn certificates` makes"
        )


def peer_name(context: grpc.ServicerContext) -> str | None:
    """Return the name in a client's certificate; None if it has shown none.

    Args:
        context: of the call.
    """
    names: Any = context.auth_context().get("x509_common_name") or ()
    return names[0].decode("utf-8", "replace") if names else None
