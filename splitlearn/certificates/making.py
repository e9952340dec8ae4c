"""Making an authority, and a key and certificate for each party: enough for a trial, and to be replaced by own ones later."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitlearn.certificates.files import AUTHORITY_FILE, AUTHORITY_KEY_FILE, CERTIFICATE_FILE, KEY_FILE
from splitlearn.certificates.reading import CertificateError, read_certificates, read_key
from splitlearn.files import whole_folder
from splitlearn.naming import named

# The folder of the authority itself, beside those of the parties.
AUTHORITY_FOLDER = "authority"
# A name is a folder's, and the common name of a certificate, which has 64 signs at most.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The clocks of two parties may differ.
_CLOCK_DIFFERENCE = datetime.timedelta(hours=1)
_MAX_DAYS = 3650


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        folder: where.
        hosts: the names and addresses of each party that serves; none for a client.
        expires: when the certificates cease to be valid, in UTC.
        fingerprint: SHA-256 of the authority's certificate; parties who compare it know that they have the same.
    """

    folder: Path
    hosts: Mapping[str, Sequence[str]]
    expires: datetime.datetime
    fingerprint: str


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_certificates(
    out: str | Path,
    parties: Sequence[str],
    hosts: Sequence[str] | Mapping[str, Sequence[str]] = ("localhost", "127.0.0.1"),
    days: int = 30,
    authority: str | Path | None = None,
) -> Made:
    """Write one folder for each party, which holds its key, its certificate and the authority's certificate.

    A party with hosts gets a certificate of a server, which no client's can stand in for; the others get those of clients.
    The folder appears whole or not at all. Only its owner may read it.

    Args:
        out: the folder to write; it must not exist yet.
        parties: their names. The common name of a party's certificate is its name.
        hosts: names and addresses at which the first party is reached; or a list for each party that serves, by its name.
        days: for how long they are valid.
        authority: folder of an authority that was made before, which signs them; None makes a new one.

    Returns:
        What was written.

    Raises:
        ValueError: a name, a host or the number of days cannot be used.
        CertificateError: the authority's files cannot be used.
        FileExistsError: ``out`` exists already.
        OSError: it cannot be written.
    """
    place = Path(out)
    _check_names(parties)
    by_party = _hosts_by_party(parties, hosts)
    if not 0 < days <= _MAX_DAYS:
        raise ValueError(f"{named('days')} is {days}; use 1 to {_MAX_DAYS}")
    if place.exists():
        raise FileExistsError(f"{named('out')}={place} exists already, and keys are never overwritten; name a new folder")
    begins = datetime.datetime.now(datetime.UTC) - _CLOCK_DIFFERENCE
    expires = begins + _CLOCK_DIFFERENCE + datetime.timedelta(days=days)
    signer = _new_authority(begins, expires) if authority is None else _read_authority(Path(authority))
    expires = min(expires, signer.certificate.not_valid_after_utc)
    with whole_folder(place, private=True) as folder:
        if authority is None:
            _write(
                folder / AUTHORITY_FOLDER, {AUTHORITY_FILE: _pem(signer.certificate), AUTHORITY_KEY_FILE: _key_pem(signer.key)}
            )
        for name in parties:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _certificate(name, by_party.get(name, ()), key, signer, begins, expires)
            files = {CERTIFICATE_FILE: _pem(certificate), KEY_FILE: _key_pem(key), AUTHORITY_FILE: _pem(signer.certificate)}
            _write(folder / name, files)
    fingerprint = signer.certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return Made(place, {name: tuple(by_party.get(name, ())) for name in parties}, expires, fingerprint)


def _check_names(parties: Sequence[str]) -> None:
    setting = named("parties")
    if isinstance(parties, str) or not parties:
        raise ValueError(f"{setting} is {parties!r}; give a list of names, such as [server,alice,bob]")
    for place, name in enumerate(parties):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{setting} names {name!r}; use 1 to 64 letters, digits, '.', '_' and '-'")
        if name.lower() == AUTHORITY_FOLDER:
            raise ValueError(f"{setting} names {name!r}, which is the folder of the authority itself; use another name")
        # Some file systems do not tell capitals from small letters.
        if name.lower() in {other.lower() for other in parties[:place]}:
            raise ValueError(f"{setting} names {name!r} twice; capitals and small letters count as the same")


def _hosts_by_party(parties: Sequence[str], hosts: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    setting = named("hosts")
    if isinstance(hosts, str):
        raise ValueError(f"{setting} is {hosts!r}; give a list, such as [localhost,127.0.0.1]")
    by_party = dict(hosts) if isinstance(hosts, Mapping) else {parties[0]: hosts} if hosts else {}
    for name, own in by_party.items():
        if name not in parties:
            raise ValueError(f"{setting} names {name!r}, which is no party; there are {', '.join(parties)}")
        if isinstance(own, str) or not all(isinstance(host, str) for host in own):
            raise ValueError(f"{setting} of {name} is {own!r}; give a list, such as [localhost,127.0.0.1]")
        for host in own:
            _general_name(host)
    return {name: list(own) for name, own in by_party.items()}


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host):
        raise ValueError(f"{named('hosts')} names {host!r}; use names and addresses without ports, such as trunk.example.org")
    return x509.DNSName(host)


def _read_authority(folder: Path) -> _Authority:
    place = folder / AUTHORITY_FILE
    certificate, key = read_certificates(place)[0], read_key(folder / AUTHORITY_KEY_FILE)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(f"{folder / AUTHORITY_KEY_FILE} is not the key of {place}; give the folder of one authority")
    expires = certificate.not_valid_after_utc
    if expires < datetime.datetime.now(datetime.UTC):
        raise CertificateError(f"{place} expired on {expires:%Y-%m-%d}; leave out {named('authority')} to make a new one")
    return _Authority(key, certificate)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _new_authority(begins: datetime.datetime, expires: datetime.datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Two trials' authorities have two names, so that a mistake can be seen.
    name = _name(f"splitlearn authority {serial % (1 << 32):08x}")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, begins, expires)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Authority(key, builder.sign(key, hashes.SHA256()))


def _certificate(
    name: str,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: _Authority,
    begins: datetime.datetime,
    expires: datetime.datetime,
) -> x509.Certificate:
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    alternatives = [_general_name(host) for host in hosts] or [x509.DNSName(name)]
    begins = max(begins, authority.certificate.not_valid_before_utc)
    signer_key = authority.key.public_key()
    return (
        x509.CertificateBuilder(
            issuer_name=authority.certificate.subject,
            subject_name=_name(name),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=begins,
            not_valid_after=expires,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
