"""One command makes what a trial needs, privately, and never overwrites a key."""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from splitlearn.certificates import CertificateError, CertificateFiles, Role, make_certificates, read_identity


def test_each_party_gets_a_folder_of_its_own_that_only_its_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_certificates(tmp_path / "out", ["server", "alice", "bob"], days=7)
    finally:
        os.umask(before)
    files = {str(path.relative_to(made.folder)): stat.S_IMODE(path.stat().st_mode) for path in made.folder.rglob("*")}
    own = ("authority.pem", "certificate.key", "certificate.pem")
    assert files == {
        **dict.fromkeys(("authority", "server", "alice", "bob"), 0o700),
        **dict.fromkeys((f"{name}/{file}" for name in ("server", "alice", "bob") for file in own), 0o600),
        **dict.fromkeys(("authority/authority.key", "authority/authority.pem"), 0o600),
    }
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_names_hosts_and_dates_are_those_that_were_asked_for(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "out", ["server", "alice"], ["trunk.example.org", "10.0.0.7", "::1"], days=7)
    server = read_identity(CertificateFiles.in_folder(made.folder / "server"), Role.SERVER)
    alice = read_identity(CertificateFiles.in_folder(made.folder / "alice"), Role.CLIENT)
    assert (server.name, server.hosts) == ("server", ("trunk.example.org", "10.0.0.7", "::1"))
    assert (alice.name, alice.hosts) == ("alice", ())
    assert made.hosts == {"server": ("trunk.example.org", "10.0.0.7", "::1"), "alice": ()}
    assert server.fingerprint == alice.fingerprint == made.fingerprint
    assert made.fingerprint.count(":") == 31
    left = alice.expires - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=6, hours=23) < left <= datetime.timedelta(days=7)


def test_several_parties_may_serve(tmp_path: Path) -> None:
    hosts = {"middle": ["middle.example.org"], "end": ["*.example.org"]}
    made = make_certificates(tmp_path / "out", ["client", "middle", "end"], hosts)
    for name, own in hosts.items():
        assert read_identity(CertificateFiles.in_folder(made.folder / name), Role.SERVER).hosts == tuple(own)
    with pytest.raises(CertificateError, match="certificate of 'client' for a client, and this party is a server"):
        read_identity(CertificateFiles.in_folder(made.folder / "client"), Role.SERVER)


def test_an_authority_of_before_signs_for_further_parties(tmp_path: Path) -> None:
    first = make_certificates(tmp_path / "first", ["server", "alice"], days=5)
    more = make_certificates(tmp_path / "more", ["bob"], [], days=30, authority=tmp_path / "first/authority")
    bob = read_identity(CertificateFiles.in_folder(tmp_path / "more/bob"), Role.CLIENT)
    assert bob.fingerprint == first.fingerprint == more.fingerprint
    # A certificate is not valid for longer than its authority's.
    assert more.expires == read_identity(CertificateFiles.in_folder(tmp_path / "first/alice"), Role.CLIENT).expires
    assert sorted(path.name for path in (tmp_path / "more").iterdir()) == ["bob"]


def test_two_authorities_have_two_names(tmp_path: Path) -> None:
    names = set()
    for place in ("one", "other"):
        made = make_certificates(tmp_path / place, ["alice"], [])
        certificate = x509.load_pem_x509_certificate((made.folder / "authority/authority.pem").read_bytes())
        names.add(certificate.subject.rfc4514_string())
    assert len(names) == 2


def test_an_authority_without_its_key_signs_nothing(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "out", ["server"])
    other = make_certificates(tmp_path / "other", ["server"])
    (made.folder / "authority/authority.key").write_bytes((other.folder / "authority/authority.key").read_bytes())
    with pytest.raises(CertificateError, match=r"authority.key is not the key of .*authority.pem; give the folder of one"):
        make_certificates(tmp_path / "more", ["bob"], [], authority=made.folder / "authority")
    with pytest.raises(FileNotFoundError, match=r"authority.pem is not there"):
        make_certificates(tmp_path / "more", ["bob"], [], authority=tmp_path)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match=r"out=.*exists already, and keys are never overwritten; name a new folder"):
        make_certificates(tmp_path / "out", ["server"])
    assert not list((tmp_path / "out").iterdir())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no parties": ({"parties": []}, r"parties is \[\]; give a list of names"),
    "a word for a list": ({"parties": "server"}, "parties is 'server'; give a list of names"),
    "a path": ({"parties": ["../x"]}, "parties names '../x'; use 1 to 64 letters"),
    "a hidden folder": ({"parties": [".ssh"]}, "parties names '.ssh'; use 1 to 64"),
    "a long name": ({"parties": ["a" * 65]}, "use 1 to 64"),
    "no text": ({"parties": [3]}, "parties names 3; use"),
    "the authority": ({"parties": ["Authority"]}, "which is the folder of the authority itself; use another name"),
    "twice": ({"parties": ["alice", "Alice"]}, "parties names 'Alice' twice"),
    "a port": ({"hosts": ["trunk:7443"]}, "hosts names 'trunk:7443'; use names and addresses without ports"),
    "a host of umlauts": ({"hosts": ["bücher.example"]}, "hosts names 'bücher.example'"),
    "hosts as one word": ({"hosts": "localhost"}, r"hosts is 'localhost'; give a list"),
    "hosts of a stranger": ({"hosts": {"bob": ["localhost"]}}, "hosts names 'bob', which is no party; there are server, alice"),
    "a party's hosts as a word": ({"hosts": {"server": "localhost"}}, "hosts of server is 'localhost'; give a list"),
    "no days": ({"days": 0}, "days is 0; use 1 to 3650"),
    "too many days": ({"days": 4000}, "days is 4000; use 1 to 3650"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    arguments, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        make_certificates(**{"out": tmp_path / "out", "parties": ["server", "alice"], **arguments})
    assert not list(tmp_path.iterdir())
