"""Who a party is: making an authority and keys for a trial, checking certificates before they are used."""

import splitlearn.certificates.extra  # noqa: F401
from splitlearn.certificates.checking import Identity, Role, read_identity
from splitlearn.certificates.files import CertificateFiles
from splitlearn.certificates.making import AUTHORITY_FOLDER, Made, make_certificates
from splitlearn.certificates.reading import CertificateError

__all__ = [
    "AUTHORITY_FOLDER",
    "CertificateError",
    "CertificateFiles",
    "Identity",
    "Made",
    "Role",
    "make_certificates",
    "read_identity",
]
