"""Reading certificates and keys, each failure as one sentence with the file's path."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

# Certificates and keys have some thousand bytes.
_MAX_BYTES = 1 << 20


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message is a sentence that says why and what to do."""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, in order.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        CertificateError: it holds no certificate.
    """
    content = read_pem(path)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from error


def read_key(path: Path) -> PrivateKeyTypes:
    """Return the private key in a PEM file.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        CertificateError: it holds no private key, or one with a password.
    """
    content = read_pem(path)
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise CertificateError(
            f"{path} has a password, which nobody could enter; `openssl pkey` prints the key without it"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from error


def read_pem(path: Path) -> bytes:
    """Return a PEM file's content.

    Raises:
        FileNotFoundError: there is no such file.
        CertificateError: it is too large to be one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `python -m splitlearn certificates` makes one folder for each party")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise CertificateError(f"{path} has more than {_MAX_BYTES:,} bytes, so it is no certificate and no key")
    return content
