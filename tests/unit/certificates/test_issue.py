"""Issued certificates, with `openssl verify` as the judge."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.ca import CertificateAuthority
from portico.certificates.end_entity import end_entity
from portico.certificates.issue import Issuer, certificate_name, client_name, make_request, parse_request
from portico.certificates.renewal import covers, ensure_server_identity, is_due, load_identity, renewal_time
from portico.certificates.revocation import revoke
from portico.certificates.tokens import TokenRefused, create_token
from portico.certificates.trust import parse_certificates, serial_hex
from portico.errors import InvalidInput, NotPermitted, PorticoError

URL = "https://da.example.net:443"


def openssl_verify(tmp_path: Path, ca: str, chain: str, at: datetime, *arguments: str) -> str:
    (tmp_path / "ca.crt").write_text(ca)
    (tmp_path / "leaf.crt").write_text(chain)
    result = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-attime", str(int(at.timestamp()))),
            *("-CAfile", str(tmp_path / "ca.crt"), *arguments, str(tmp_path / "leaf.crt")),
        ],
        capture_output=True,
        text=True,
    )
    return "OK" if result.returncode == 0 else result.stdout + result.stderr


def test_a_server_certificate_is_good_for_its_name_and_nothing_else(
    issuer: Issuer, tmp_path: Path, now: datetime
) -> None:
    identity = issuer.server("da.example.net", days=90, now=now)
    check = [tmp_path, issuer.trust, identity.chain_pem, now]
    assert openssl_verify(*check, "-purpose", "sslserver", "-verify_hostname", "da.example.net") == "OK"  # type: ignore[arg-type]
    assert openssl_verify(*check, "-verify_hostname", "www.example.net") != "OK"  # type: ignore[arg-type]
    assert openssl_verify(*check, "-purpose", "sslclient") != "OK"  # type: ignore[arg-type]
    assert identity.certificate.not_valid_after_utc == now + timedelta(days=90)
    assert "PRIVATE" not in repr(identity)


def test_no_part_of_a_name_stands_for_the_whole(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    """A common name has 64 characters at most. The rest of a longer one would be another server's name, or person's."""
    name = f"{'d' * 60}.corp.example.net"
    identity = issuer.server(name, days=90, now=now)
    assert certificate_name(identity.chain_pem) == "Portico server"
    check = [tmp_path, issuer.trust, identity.chain_pem, now, "-purpose", "sslserver", "-verify_hostname"]
    assert openssl_verify(*check, name) == "OK"  # type: ignore[arg-type]
    assert openssl_verify(*check, name[:64]) != "OK"  # type: ignore[arg-type]
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(InvalidInput) as error:
        end_entity(issuer.authority, key, "x" * 65, days=1, now=now, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert error.value.code == "COMMON_NAME_TOO_LONG"


@pytest.mark.parametrize("address", ["203.0.113.11", "2001:db8::11"])
def test_a_server_that_is_dialled_by_address_has_it_in_its_certificate(
    issuer: Issuer, tmp_path: Path, now: datetime, address: str
) -> None:
    identity = issuer.server(address, days=90, now=now)
    assert covers(identity.certificate, address)
    assert openssl_verify(tmp_path, issuer.trust, identity.chain_pem, now, "-verify_ip", address) == "OK"


def test_a_token_enrols_a_client_once(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    token = create_token(issuer.store, name="client1", url=URL, trust=issuer.trust, now=now)
    _, request = make_request("whatever-it-asks-for")
    name, chain = issuer.enrol(token=token.id, secret=token.secret, request=request, days=90, now=now)
    assert name == certificate_name(chain) == "client1"
    assert openssl_verify(tmp_path, issuer.trust, chain, now, "-purpose", "sslclient") == "OK"
    assert openssl_verify(tmp_path, issuer.trust, chain, now, "-purpose", "sslserver") != "OK"
    (record,) = issuer.store.issued(kind="client")
    assert (record.name, record.token, record.revoked) == ("client1", token.id, None)
    assert record.serial == serial_hex(parse_certificates(chain)[0].serial_number)
    with pytest.raises(TokenRefused) as caught:
        issuer.enrol(token=token.id, secret=token.secret, request=request, days=90, now=now)
    assert caught.value.reason == "used"
    assert len(issuer.store.issued()) == 1


def test_a_bad_request_leaves_the_token_open(issuer: Issuer, now: datetime) -> None:
    token = create_token(issuer.store, name="client1", url=URL, trust=issuer.trust, now=now)
    with pytest.raises(InvalidInput):
        issuer.enrol(token=token.id, secret=token.secret, request="nonsense", days=90, now=now)
    assert issuer.store.tokens()[0].state(now) == "open"


def test_a_client_renews_with_a_good_certificate_only(issuer: Issuer, now: datetime) -> None:
    _, request = make_request("client1")
    chain = issuer.client("client1", request, days=90, now=now)
    serial = serial_hex(parse_certificates(chain)[0].serial_number)
    ours = issuer.authority.issuer_sha256
    later = now + timedelta(days=61)
    name, renewed = issuer.renew(issuer_sha256=ours, serial=serial, request=request, days=90, now=later)
    assert name == certificate_name(renewed) == "client1"
    assert renewed != chain

    def refused(issuer_sha256: str, number: str, at: datetime) -> str:
        with pytest.raises(NotPermitted) as caught:
            issuer.renew(issuer_sha256=issuer_sha256, serial=number, request=request, days=90, now=at)
        assert caught.value.code == "RENEWAL_REFUSED"
        return caught.value.why

    assert "did not issue" in refused("0" * 64, serial, later)
    assert "did not issue" in refused(ours, "1234", later)
    assert "expired" in refused(ours, serial, now + timedelta(days=91))
    revoke(issuer.store, serial=serial, now=later)
    assert "revoked" in refused(ours, serial, later)


@pytest.mark.parametrize("name", ["", "-a", "a" * 65, "a b", "ä", "a/b", "a\n", "."])
def test_names_that_cannot_be_a_clients_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        client_name(name)
    assert caught.value.code == "CLIENT_NAME_INVALID"


def test_weak_and_forged_requests_are_refused(now: datetime) -> None:
    subject = x509.Name([])

    def pem(request: x509.CertificateSigningRequest) -> bytes:
        return request.public_bytes(serialization.Encoding.PEM)

    weak = rsa.generate_private_key(65537, 1024)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    with pytest.raises(InvalidInput, match="1024 bits"):
        parse_request(pem(builder.sign(weak, hashes.SHA256())))
    with pytest.raises(InvalidInput, match="secp256k1"):
        parse_request(pem(builder.sign(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256())))
    good = bytearray(
        builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    )
    good[-1] ^= 1
    with pytest.raises(InvalidInput, match="signature"):
        parse_request(pem(x509.load_der_x509_csr(bytes(good))))
    with pytest.raises(InvalidInput, match="larger"):
        parse_request(b"x" * 100_000)


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_no_request(content: bytes, framed: bool) -> None:
    if framed:
        content = b"-----BEGIN CERTIFICATE REQUEST-----\n" + content + b"\n-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(PorticoError):
        parse_request(content)


def test_renewal_is_due_in_time_but_never_for_ever(now: datetime) -> None:
    end = now + timedelta(days=90)
    assert renewal_time(now, end, 30) == now + timedelta(days=60)
    assert renewal_time(now, now + timedelta(days=3), 30) == now + timedelta(days=2)


def test_the_servers_identity_is_kept_until_it_is_due(issuer: Issuer, tmp_path: Path, now: datetime) -> None:
    def ensure(at: datetime, connect_to: str = "da.example.net") -> tuple[bool, str]:
        outcome = ensure_server_identity(
            tmp_path / "id", issuer, connect_to=connect_to, days=90, renew_before_days=30, now=at
        )
        assert covers(outcome.identity.certificate, connect_to)
        return outcome.reissued, outcome.reason

    path = tmp_path / "id" / "server.pem"
    assert ensure(now) == (True, "there was none")
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure(now + timedelta(days=59)) == (False, "")
    assert ensure(now + timedelta(days=61))[0]
    assert ensure(now + timedelta(days=61)) == (False, "")
    assert ensure(now + timedelta(days=61), "new.example.net") == (True, "it was not for new.example.net")
    for content in (b"", b"garbage", path.read_bytes()[:200]):
        path.write_bytes(content)
        assert ensure(now + timedelta(days=61))[0]
        load_identity(path)


def test_a_due_certificate_is_used_while_it_cannot_be_renewed(
    shared_authority: CertificateAuthority, issuer: Issuer, tmp_path: Path, now: datetime
) -> None:
    ensure_server_identity(tmp_path / "id", issuer, connect_to="da.example.net", days=90, renew_before_days=30, now=now)
    later = now + timedelta(days=70)
    issuer.store.close()
    outcome = ensure_server_identity(
        tmp_path / "id", issuer, connect_to="da.example.net", days=90, renew_before_days=30, now=later
    )
    assert not outcome.reissued
    assert "could not be renewed" in outcome.reason
    assert is_due(outcome.identity.certificate, 30, later)
