"""What still serves when a file of the certificates is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import make_request
from portico.certificates.revocation import revoke
from portico.errors import PorticoError
from portico.server.credentials import DIRECTORY, Credentials, now_utc
from portico.settings.document import load_data

SETTINGS = load_data(
    {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fd7c:1a2b:3c4d::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    }
)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A state directory that has served, with one client revoked."""
    credentials = Credentials.open(tmp_path)
    CertificateAuthority.create(credentials.directory, name="corp.example.net", now=now_utc())
    credentials.reload_authority()
    credentials.secrets(SETTINGS, now_utc())
    _, request = make_request("laptop7")
    credentials.issuer().client("laptop7", request, days=90, now=now_utc())
    serial = credentials.usable_store().issued(kind="client")[0].serial
    revoke(credentials.usable_store(), serial=serial, now=now_utc())
    credentials.write_crl(now_utc())
    credentials.close()
    return tmp_path


def damage(state: Path) -> Path:
    for file in (state / DIRECTORY).glob("certificates.sqlite*"):
        file.unlink()
    path = state / DIRECTORY / "certificates.sqlite"
    path.write_bytes(b"not a database" * 100)
    return path


def test_damaged_records_do_not_stop_the_service(served: Path) -> None:
    before = Credentials.open(served).secrets(SETTINGS, now_utc())
    damage(served)
    credentials = Credentials.open(served)
    secrets = credentials.secrets(SETTINGS, now_utc())
    assert secrets.certificate_chain == before.certificate_chain
    assert secrets.revoked == before.revoked != []
    assert "is damaged" in str(credentials.warnings["store"])


def test_damaged_records_and_no_good_certificate_are_an_error(served: Path) -> None:
    damage(served)
    (served / DIRECTORY / "server.pem").unlink()
    with pytest.raises(PorticoError, match=r"certificates\.sqlite is damaged"):
        Credentials.open(served).secrets(SETTINGS, now_utc())


def test_repaired_records_know_what_was_revoked(served: Path) -> None:
    before = Credentials.open(served).secrets(SETTINGS, now_utc())
    path = damage(served)
    credentials = Credentials.open(served)
    aside = credentials.repair(now_utc())
    assert aside is not None
    assert aside.name.startswith(f"{path.name}.damaged-")
    assert credentials.secrets(SETTINGS, now_utc()).revoked == before.revoked
    assert "store" not in credentials.warnings
    assert credentials.repair(now_utc()) is None
