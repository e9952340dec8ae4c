"""Whatever is wrong with a party's own files is found before it connects."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from splitlearn.certificates import CertificateError, CertificateFiles, Role, make_certificates, read_identity

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["server", "alice", "bob"], days=30)
    make_certificates(folder / "theirs", ["alice"], [])
    return folder


def files_of(made: Path, name: str = "alice", **others: Path) -> CertificateFiles:
    own = CertificateFiles.in_folder(made / "ours" / name)
    return replace(own, **others)


def signed_by_ours(made: Path, folder: Path, name: str = "carol", days: int = 1) -> CertificateFiles:
    """A certificate without extensions, as somebody's own authority may make it."""
    authority = made / "ours/authority"
    signer = x509.load_pem_x509_certificate((authority / "authority.pem").read_bytes())
    signer_key = serialization.load_pem_private_key((authority / "authority.key").read_bytes(), None)
    assert isinstance(signer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateBuilder(
        signer.subject, subject, key.public_key(), 5, NOW - datetime.timedelta(days=1), NOW + datetime.timedelta(days=days)
    )
    certificate = builder.sign(signer_key, hashes.SHA256())
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "own.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "own.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return CertificateFiles(folder / "own.pem", folder / "own.key", authority / "authority.pem")


def test_files_that_belong_together_are_accepted(made: Path) -> None:
    identity = read_identity(files_of(made), Role.CLIENT)
    assert identity.name == "alice"
    assert b"PRIVATE KEY" in identity.key
    assert "PRIVATE KEY" not in repr(identity)


def test_a_certificate_of_an_own_authority_needs_no_extensions(made: Path, tmp_path: Path) -> None:
    assert read_identity(signed_by_ours(made, tmp_path), Role.CLIENT).name == "carol"


@pytest.mark.parametrize("lost", ["certificate", "key", "authority"])
def test_a_missing_file_is_named(made: Path, tmp_path: Path, lost: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone.pem is not there; `python -m splitlearn certificates` makes one folder"):
        read_identity(replace(files_of(made), **{lost: tmp_path / "gone.pem"}), Role.CLIENT)


def test_the_key_of_another_party_is_refused(made: Path) -> None:
    with pytest.raises(CertificateError, match=r"bob/certificate.key is not the key of .*alice/certificate.pem"):
        read_identity(files_of(made, key=made / "ours/bob/certificate.key"), Role.CLIENT)


def test_a_certificate_of_another_authority_is_refused(made: Path) -> None:
    with pytest.raises(CertificateError, match=r"was signed by CN=splitlearn authority \w+, and .*did not sign it: take"):
        read_identity(files_of(made, authority=made / "theirs/authority/authority.pem"), Role.CLIENT)


def test_an_authority_that_only_has_the_name_of_the_signer_is_refused(made: Path, tmp_path: Path) -> None:
    signer = x509.load_pem_x509_certificate((made / "ours/authority/authority.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
    forged = x509.CertificateBuilder(signer.subject, signer.subject, key.public_key(), 7, begins, ends).sign(
        key, hashes.SHA256()
    )
    (tmp_path / "forged.pem").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(CertificateError, match="did not sign it"):
        read_identity(files_of(made, authority=tmp_path / "forged.pem"), Role.CLIENT)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (31, "has expired on .* UTC, and it is .* UTC; have a new one made"),
        (-1, "is valid from .* set the clock right, or wait"),
    ],
)
def test_dates_are_compared_with_the_clock(made: Path, days: int, said: str) -> None:
    with pytest.raises(CertificateError, match=said):
        read_identity(files_of(made), Role.CLIENT, now=NOW + datetime.timedelta(days=days))


def test_an_expired_authority_is_named(made: Path, tmp_path: Path) -> None:
    files = signed_by_ours(made, tmp_path, days=90)
    with pytest.raises(CertificateError, match=r"authority.pem has expired"):
        read_identity(files, Role.CLIENT, now=NOW + datetime.timedelta(days=60))


def test_a_servers_certificate_is_none_of_a_client(made: Path) -> None:
    with pytest.raises(CertificateError, match="is the certificate of 'server' for a server, and this party is a client"):
        read_identity(files_of(made, "server"), Role.CLIENT)
    with pytest.raises(CertificateError, match="is the certificate of 'alice' for a client, and this party is a server"):
        read_identity(files_of(made), Role.SERVER)


def test_a_server_without_hosts_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="names no host"):
        read_identity(signed_by_ours(made, tmp_path), Role.SERVER)


def test_a_certificate_without_a_name_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="has no common name, by which others would know this party"):
        read_identity(signed_by_ours(made, tmp_path, name=""), Role.CLIENT)


def test_files_of_other_kinds_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CertificateError, match="text holds no certificate in PEM form"):
        read_identity(files_of(made, certificate=tmp_path / "text"), Role.CLIENT)
    with pytest.raises(CertificateError, match="text holds no private key in PEM form"):
        read_identity(files_of(made, key=tmp_path / "text"), Role.CLIENT)
    (tmp_path / "large").write_bytes(bytes(1 << 21))
    with pytest.raises(CertificateError, match="large has more than 1,048,576 bytes"):
        read_identity(files_of(made, authority=tmp_path / "large"), Role.CLIENT)


def test_a_key_with_a_password_is_refused(made: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key((made / "ours/alice/certificate.key").read_bytes(), None)
    protected = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.key").write_bytes(protected)
    with pytest.raises(CertificateError, match=r"locked.key has a password, which nobody could enter"):
        read_identity(files_of(made, key=tmp_path / "locked.key"), Role.CLIENT)


def test_a_certificate_may_come_with_the_authorities_between(made: Path, tmp_path: Path) -> None:
    """An organisation's root signs an authority of a department, which signs the party."""
    root_files = made / "ours/authority"
    root = x509.load_pem_x509_certificate((root_files / "authority.pem").read_bytes())
    root_key = serialization.load_pem_private_key((root_files / "authority.key").read_bytes(), None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("department", "dave")]
    dates = (root.not_valid_before_utc, root.not_valid_after_utc)
    between = (
        x509.CertificateBuilder(root.subject, names[0], keys[0].public_key(), 8, *dates)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    own = x509.CertificateBuilder(names[0], names[1], keys[1].public_key(), 9, *dates).sign(keys[0], hashes.SHA256())
    encoding = serialization.Encoding.PEM
    (tmp_path / "chain.pem").write_bytes(own.public_bytes(encoding) + between.public_bytes(encoding))
    plain = serialization.NoEncryption()
    (tmp_path / "own.key").write_bytes(keys[1].private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    files = CertificateFiles(tmp_path / "chain.pem", tmp_path / "own.key", root_files / "authority.pem")
    assert read_identity(files, Role.CLIENT).name == "dave"
