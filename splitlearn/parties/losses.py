"""The meaning of a connection that broke or could not be opened, from the words that gRPC has for it."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from splitlearn.certificates import Identity
from splitlearn.parties.errors import PartyError, PartyLostError
from splitlearn.parties.wire_checks import WireError
from splitlearn.redaction import reason_of


@dataclass(frozen=True)
class Loss:
    """A connection that is lost.

    Attributes:
        sentence: what happened and what to do.
        may_come_back: whether it makes sense to try again: no certificate and no address becomes right by waiting.
    """

    sentence: str
    may_come_back: bool


def loss_of(error: grpc.RpcError, title: str, target: str, identity: Identity | None) -> Loss:
    """Return the meaning of an error of gRPC.

    Args:
        error: from a call to a server.
        title: how messages name the server.
        target: its address.
        identity: who this party is; None if the connection was in the clear.
    """
    said = reason_of(Exception(error.details() or "")) if isinstance(error, grpc.Call) else ""
    opening = _loss_in_opening(said, title, target, identity)
    if opening is not None:
        return opening
    code = error.code() if isinstance(error, grpc.Call) else None
    name = "" if code is None else code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Loss(f"{title} takes no further connection, or no message of this size ({said})", False)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Loss(f"what listens at {target} is no server of a part ({said})", False)
    return Loss(f"the connection to {title} broke ({said or name}); see whether the server still runs", True)


def _loss_in_opening(said: str, title: str, target: str, identity: Identity | None) -> Loss | None:
    host = target.rpartition(":")[0]
    # The last of the addresses that were tried has the reason.
    reason = said.rpartition(": ")[2]
    if "Hostname Verification" in said:
        return Loss(
            f"the certificate of {title} does not name {host}: use a name that it has, or have one made with hosts=[{host}]",
            False,
        )
    if "WRONG_VERSION_NUMBER" in said:
        return Loss(f"what listens at {target} does not speak TLS; serve with certificates, or connect without", False)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return Loss(_untrusted(said, title, identity), False)
    # Both sides refuse a certificate without a word to the other.
    if "failed to connect to all addresses" in said and "Socket closed" in said:
        return Loss(_closed(title, identity), False)
    if "errors resolving" in said or "DNS" in said:
        return Loss(f"there is no host {host} ({reason}); check the name in {target}", False)
    if "failed to connect to all addresses" in said:
        return Loss(
            f"{title} cannot be reached ({reason}); check the address, the firewall, and that the server runs",
            True,
        )
    return None


def _untrusted(said: str, title: str, identity: Identity | None) -> str:
    if "has expired" in said:
        return f"the certificate of {title} has expired; its holder must have a new one made"
    own = "" if identity is None else f" of {identity.name}, whose SHA-256 is {identity.fingerprint}"
    return (
        f"the certificate of {title} was not signed by the authority{own}; both parties must have their files "
        "from one authority"
    )


def _closed(title: str, identity: Identity | None) -> str:
    if identity is None:
        return f"{title} closed a connection in the clear: it expects TLS, so give this party's certificates"
    return (
        f"{title} closed the connection, as it does if it does not accept the certificate of {identity.name}: "
        f"compare with its holder the SHA-256 of the authority ({identity.fingerprint}), and the server's clock"
    )


def raised_again(error: Exception) -> Exception:
    """Return an error like another one, for another thread: a traceback belongs to one raise.

    Args:
        error: of a connection.
    """
    if isinstance(error, PartyError):
        return PartyError(str(error), error.kind, error.is_final)
    if isinstance(error, (PartyLostError, WireError)):
        return type(error)(str(error))
    return PartyLostError(f"the connection was lost by a fault of this library ({type(error).__name__}: {reason_of(error)})")
