"""Checking a party's own certificate before it connects or serves.

A server that refuses a client's certificate says nothing but that the connection is closed. So whatever can be wrong with a
party's own files is found here first, and said in one sentence.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitlearn.certificates.files import CertificateFiles
from splitlearn.certificates.reading import CertificateError, read_certificates, read_key, read_pem
from splitlearn.redaction import printable


class Role(StrEnum):
    """Which end of a connection a party is."""

    CLIENT = "client"
    SERVER = "server"


_PURPOSES = {Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH, Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True)
class Identity:
    """A party's certificate and key, checked.

    Attributes:
        name: the common name of the certificate, by which the other party knows this one.
        role: which end of a connection it is for.
        hosts: names and addresses for which the certificate is valid, of a server.
        expires: when it ceases to be valid, in UTC.
        fingerprint: SHA-256 of the authority's certificate, which must be the other party's, too.
        certificate: PEM.
        key: PEM.
        authority: PEM.
    """

    name: str
    role: Role
    hosts: tuple[str, ...]
    expires: datetime.datetime
    fingerprint: str
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authority: bytes = field(repr=False)


def read_identity(files: CertificateFiles, role: Role, now: datetime.datetime | None = None) -> Identity:
    """Read a party's own files and check all that can be checked without the other party.

    Args:
        files: certificate, key and authority.
        role: which end of a connection they are for.
        now: the time at which they must be valid, in UTC; None for the present.

    Returns:
        What the connection needs.

    Raises:
        FileNotFoundError: a file is not there.
        CertificateError: a file holds something else, the key belongs to another certificate, the authority has not signed it,
            a certificate has expired or is not valid yet, it is for the other role, or it has no name.
    """
    chain, authorities = read_certificates(files.certificate), read_certificates(files.authority)
    own = chain[0]
    if read_key(files.key).public_key() != own.public_key():
        raise CertificateError(
            f"{files.key} is not the key of {files.certificate}: it belongs to another certificate; "
            "give the key and the certificate that were made together"
        )
    path = _path_to_authority(files, chain, authorities)
    time = now or datetime.datetime.now(datetime.UTC)
    for certificate in path:
        where = files.authority if certificate in authorities else files.certificate
        _check_dates(where, certificate, time)
    _check_purpose(files.certificate, own, role)
    name = common_name(own)
    if not name:
        raise CertificateError(f"{files.certificate} has no common name, by which others would know this party; make another")
    hosts = _hosts(own)
    if role is Role.SERVER and not hosts:
        raise CertificateError(
            f"{files.certificate} names no host (as a subject alternative name), so no client would accept it; make one with "
            "the names and addresses at which clients reach this party"
        )
    return Identity(
        name,
        role,
        hosts if role is Role.SERVER else (),
        min(certificate.not_valid_after_utc for certificate in path),
        path[-1].fingerprint(hashes.SHA256()).hex(":").upper(),
        read_pem(files.certificate),
        read_pem(files.key),
        read_pem(files.authority),
    )


def common_name(certificate: x509.Certificate) -> str:
    """Return the common name of a certificate's subject; empty if it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable(str(names[0].value)) if names else ""


def _path_to_authority(
    files: CertificateFiles, chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the certificates from a party's own to one of the authorities, each signed by the next."""
    path = [chain[0]]
    while path[-1] not in authorities:
        left = [certificate for certificate in [*authorities, *chain] if certificate not in path]
        issuer = next((certificate for certificate in left if _has_signed(certificate, path[-1])), None)
        if issuer is None:
            signed_by = printable(path[-1].issuer.rfc4514_string())
            known = " or ".join(printable(certificate.subject.rfc4514_string()) for certificate in authorities)
            raise CertificateError(
                f"{files.certificate} was signed by {signed_by}, and {files.authority} is the certificate of {known}, which "
                "did not sign it: take all files from the folder that was handed to this party"
            )
        path.append(issuer)
    return path


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_dates(path: Path, certificate: x509.Certificate, now: datetime.datetime) -> None:
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > expires:
        raise CertificateError(
            f"{path} has expired on {expires:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC; have a new one made "
            "(`python -m splitlearn certificates`) and handed to this party"
        )
    if now < begins:
        raise CertificateError(
            f"{path} is valid from {begins:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC by this machine's clock; "
            "set the clock right, or wait"
        )


def _check_purpose(path: Path, certificate: x509.Certificate, role: Role) -> None:
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        # It is then for any purpose.
        return
    if _PURPOSES[role] not in purposes and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes:
        other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        raise CertificateError(
            f"{path} is the certificate of {common_name(certificate)!r} for a {other}, and this party is a {role}; "
            "use the folder that was made for this party"
        )


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(map(printable, hosts))
