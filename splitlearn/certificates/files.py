"""The files that prove who a party is, and their names in the folder that is handed to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

AUTHORITY_FILE = "authority.pem"
AUTHORITY_KEY_FILE = "authority.key"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "certificate.key"


@dataclass(frozen=True)
class CertificateFiles:
    """Three PEM files.

    Attributes:
        certificate: of this party, followed by those of authorities between it and ``authority``, if there are any.
        key: the private key of the certificate, without a password.
        authority: the certificate of the authority that both parties trust; several may follow one another.
    """

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def in_folder(cls, folder: str | Path) -> CertificateFiles:
        """Return the files in a folder that `make_certificates` wrote for a party.

        Args:
            folder: such as ``certificates/alice``.
        """
        place = Path(folder)
        return cls(place / CERTIFICATE_FILE, place / KEY_FILE, place / AUTHORITY_FILE)
