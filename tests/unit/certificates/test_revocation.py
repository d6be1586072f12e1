"""Revocation, with the openssl program as the judge of the signed list."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import Issuer, make_request
from portico.certificates.revocation import (
    CRL_NAME,
    Revoked,
    current_revocations,
    read_crl,
    recover,
    revoke,
    revoke_foreign,
    revoked_list,
    write_crl,
)
from portico.certificates.store import DATABASE_NAME, CertificateStore
from portico.certificates.tokens import create_token
from portico.certificates.trust import parse_certificates, serial_hex
from portico.errors import InvalidInput, NotFound, PorticoError

_, REQUEST = make_request("x")


def issue(issuer: Issuer, name: str, now: datetime, days: int = 90) -> Revoked:
    chain = issuer.client(name, REQUEST, days=days, now=now)
    return Revoked(issuer.authority.issuer_sha256, serial_hex(parse_certificates(chain)[0].serial_number))


def test_revoking_a_client_revokes_all_its_good_certificates_and_tokens(issuer: Issuer, now: datetime) -> None:
    first, second, other = (issue(issuer, name, now) for name in ("client1", "client1", "client2"))
    create_token(issuer.store, name="client1", url="https://x:443", trust=issuer.trust, now=now)
    done = revoke(issuer.store, name="client1", reason="key-compromise", now=now)
    assert {record.serial for record in done} == {first.serial, second.serial}
    assert revoked_list(issuer.store, now) == sorted([first, second])
    assert issuer.store.tokens()[0].state(now) == "burned"
    assert revoke(issuer.store, name="client1", now=now) == []
    assert other not in revoked_list(issuer.store, now)


def test_one_certificate_is_revoked_by_its_serial_in_any_form(issuer: Issuer, now: datetime) -> None:
    entry = issue(issuer, "client1", now)
    assert revoke(issuer.store, serial=f"00{entry.serial.upper()}", now=now)
    assert revoked_list(issuer.store, now) == [entry]


def test_what_has_expired_leaves_the_list(issuer: Issuer, now: datetime) -> None:
    issue(issuer, "client1", now, days=2)
    revoke(issuer.store, name="client1", now=now)
    assert len(revoked_list(issuer.store, now + timedelta(days=1))) == 1
    assert revoked_list(issuer.store, now + timedelta(days=2)) == []


def test_revoking_nothing_says_so(issuer: Issuer, now: datetime) -> None:
    with pytest.raises(NotFound, match="nobody"):
        revoke(issuer.store, name="nobody", now=now)
    with pytest.raises(NotFound):
        revoke(issuer.store, serial="zz", now=now)
    with pytest.raises(InvalidInput):
        revoke(issuer.store, now=now)
    with pytest.raises(InvalidInput, match="key-compromise"):
        revoke(issuer.store, name="x", reason="bad mood", now=now)


def test_openssl_refuses_a_revoked_certificate_by_our_list(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    good = issuer.client("good", REQUEST, days=90, now=now)
    bad = issuer.client("bad", REQUEST, days=90, now=now)
    revoke(issuer.store, name="bad", reason="superseded", now=now)
    crl = write_crl(issuer.authority, issuer.store, tmp_path, now)
    (tmp_path / "ca.crt").write_text(issuer.trust)

    def verify(chain: str) -> str:
        (tmp_path / "leaf.crt").write_text(chain)
        result = subprocess.run(
            [
                *("openssl", "verify", "-crl_check", "-attime", str(int(now.timestamp()) + 60)),
                *("-CAfile", str(tmp_path / "ca.crt"), "-CRLfile", str(crl), str(tmp_path / "leaf.crt")),
            ],
            capture_output=True,
            text=True,
        )
        return result.stdout + result.stderr

    assert verify(good).strip().endswith("OK")
    assert "certificate revoked" in verify(bad)
    text = subprocess.run(
        ["openssl", "crl", "-in", str(crl), "-CAfile", str(tmp_path / "ca.crt"), "-noout", "-text"],
        capture_output=True,
        text=True,
    )
    assert "verify OK" in text.stderr
    assert "Superseded" in text.stdout


def test_the_number_of_the_list_grows(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    numbers = []
    for _ in range(3):
        crl, _entries = read_crl(
            write_crl(issuer.authority, issuer.store, tmp_path, now), [issuer.authority.certificate]
        )
        numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
    assert numbers == [1, 2, 3]


def test_a_list_is_read_as_pem_and_der_and_only_from_its_issuer(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    entry = issue(issuer, "client1", now)
    revoke(issuer.store, name="client1", now=now)
    path = write_crl(issuer.authority, issuer.store, tmp_path, now)
    crl, entries = read_crl(path, [issuer.authority.certificate])
    assert entries == [entry]
    der = tmp_path / "crl.der"
    der.write_bytes(crl.public_bytes(serialization.Encoding.DER))
    assert read_crl(der, [issuer.authority.certificate])[1] == [entry]
    other = CertificateAuthority.create(tmp_path / "other", name="other", now=now)
    with pytest.raises(InvalidInput) as caught:
        read_crl(path, [other.certificate])
    assert caught.value.code == "CRL_FOREIGN"


def test_a_damaged_database_does_not_let_revoked_clients_in(issuer: Issuer, now: datetime) -> None:
    entry = issue(issuer, "client1", now)
    revoke(issuer.store, name="client1", now=now)
    directory = issuer.store.directory
    write_crl(issuer.authority, issuer.store, directory, now)
    issuer.store.close()
    (directory / DATABASE_NAME).write_bytes(b"\xa5" * 8192)
    with pytest.raises(InvalidInput, match=DATABASE_NAME):
        CertificateStore.open(directory)
    outcome = current_revocations(None, directory=directory, authority=issuer.authority, now=now)
    assert outcome.entries == (entry,)
    assert outcome.problems == ()

    store, aside = recover(directory, issuer.authority, now)
    assert aside.exists()
    assert revoked_list(store, now) == [entry]
    crl, entries = read_crl(write_crl(issuer.authority, store, directory, now), [issuer.authority.certificate])
    assert entries == [entry]
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2


def test_a_store_is_not_recovered_over_a_list_that_cannot_be_read(issuer: Issuer, now: datetime) -> None:
    directory = issuer.store.directory
    issuer.store.close()
    (directory / CRL_NAME).write_bytes(b"garbage")
    with pytest.raises(PorticoError, match=CRL_NAME):
        recover(directory, issuer.authority, now)
    assert (directory / DATABASE_NAME).exists()


def test_a_source_that_cannot_be_read_never_shortens_the_list(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    before = (Revoked("aa", "1"),)
    bad = tmp_path / "imported.crl"
    bad.write_bytes(b"")
    outcome = current_revocations(
        issuer.store, directory=tmp_path, authority=issuer.authority, crls=[bad], previous=before, now=now
    )
    assert outcome.entries == before
    assert "imported.crl" in str(outcome.problems[0])
    (issuer.store.directory / CRL_NAME).write_bytes(b"garbage")
    outcome = current_revocations(None, directory=issuer.store.directory, authority=issuer.authority, now=now)
    assert CRL_NAME in str(outcome.problems[0])


def test_a_certificate_of_an_imported_ca_can_be_revoked_here(issuer: Issuer, now: datetime) -> None:
    assert revoke_foreign(issuer.store, issuer_sha256="ab", serial="1f", name="laptop", now=now)
    assert not revoke_foreign(issuer.store, issuer_sha256="ab", serial="1f", name="laptop", now=now)
    assert revoked_list(issuer.store, now + timedelta(days=9999)) == [Revoked("ab", "1f")]


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_no_list(
    tmp_path_factory: pytest.TempPathFactory, shared_authority: CertificateAuthority, content: bytes, framed: bool
) -> None:
    if framed:
        content = b"-----BEGIN X509 CRL-----\n" + content + b"\n-----END X509 CRL-----\n"
    path = tmp_path_factory.mktemp("crl") / "crl.pem"
    path.write_bytes(content)
    with pytest.raises(PorticoError):
        read_crl(path, [shared_authority.certificate])
