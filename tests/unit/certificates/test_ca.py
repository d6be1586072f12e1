from __future__ import annotations

import os
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.ca import AUTHORITY_NAME, PUBLIC_NAME, CertificateAuthority
from portico.certificates.trust import parse_certificates, pin, serial_hex, to_pem
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable


def test_a_ca_is_made_once_and_loaded_again(tmp_path: Path, now: datetime) -> None:
    made = CertificateAuthority.create(tmp_path / "ca", name="corp.example.net", now=now)
    loaded = CertificateAuthority.load(tmp_path / "ca")
    assert loaded.certificate == made.certificate
    assert "corp.example.net Portico CA" in loaded.certificate.subject.rfc4514_string()
    with pytest.raises(Conflict) as caught:
        CertificateAuthority.create(tmp_path / "ca", name="other", now=now)
    assert caught.value.code == "CA_EXISTS"
    assert CertificateAuthority.load(tmp_path / "ca").certificate == made.certificate


def test_the_key_is_for_its_owner_only_whatever_the_umask(tmp_path: Path, now: datetime) -> None:
    before = os.umask(0)
    try:
        CertificateAuthority.create(tmp_path / "ca", name="x", now=now)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "ca" / AUTHORITY_NAME).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == [AUTHORITY_NAME, PUBLIC_NAME]


def test_two_creators_at_once_make_one_ca(tmp_path: Path, now: datetime) -> None:
    made: list[CertificateAuthority] = []

    def create() -> None:
        try:
            made.append(CertificateAuthority.create(tmp_path / "ca", name="x", now=now))
        except Conflict:
            return

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert CertificateAuthority.load(tmp_path / "ca").certificate == made[0].certificate


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="file"):
        CertificateAuthority.create(tmp_path / "file" / "ca", name="x", now=now)


def test_a_missing_ca_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="portico ca init"):
        CertificateAuthority.load(tmp_path)


@pytest.mark.parametrize("how", ["empty", "truncated key", "truncated certificate", "garbage", "another key", "no key"])
def test_a_damaged_ca_is_named(tmp_path: Path, now: datetime, how: str) -> None:
    CertificateAuthority.create(tmp_path, name="x", now=now)
    CertificateAuthority.create(tmp_path / "other", name="y", now=now)
    path = tmp_path / AUTHORITY_NAME
    content = path.read_bytes()
    other = (tmp_path / "other" / AUTHORITY_NAME).read_bytes()
    split = content.index(b"-----BEGIN CERTIFICATE")
    path.write_bytes(
        {
            "empty": b"",
            "truncated key": content[60:],
            "truncated certificate": content[:-40],
            "garbage": bytes(range(256)) * 4,
            "another key": other[: other.index(b"-----BEGIN CERTIFICATE")] + content[split:],
            "no key": content[split:],
        }[how]
    )
    with pytest.raises(InvalidInput, match=AUTHORITY_NAME) as caught:
        CertificateAuthority.load(tmp_path)
    assert caught.value.code == "CA_DAMAGED"


def test_the_public_copy_is_rebuilt(tmp_path: Path, now: datetime) -> None:
    ca = CertificateAuthority.create(tmp_path, name="x", now=now)
    (tmp_path / PUBLIC_NAME).write_bytes(b"")
    CertificateAuthority.load(tmp_path)
    assert (tmp_path / PUBLIC_NAME).read_text() == ca.pem


def test_nothing_is_issued_outside_the_life_of_the_ca(shared_authority: CertificateAuthority, now: datetime) -> None:
    for moment in (now - timedelta(days=1), now + timedelta(days=4000)):
        with pytest.raises(InvalidInput) as caught:
            shared_authority.window(moment, 90)
        assert caught.value.code == "CA_EXPIRED"
    begin, end = shared_authority.window(now + timedelta(days=3640), 90)
    assert end == shared_authority.certificate.not_valid_after_utc
    assert begin < end


def test_the_pin_is_of_the_certificates_not_of_the_text(shared_authority: CertificateAuthority) -> None:
    pem = shared_authority.pem
    assert pin(pem) == pin(f"# a comment\n{pem}\n\n") == pin(pem.replace("\n", "\r\n"))
    assert pin(pem) != pin(pem + pem)
    assert len(pin(pem)) == 64


def test_serials_have_no_leading_zeros() -> None:
    assert serial_hex(0x0A0B) == "a0b"


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_no_certificates(content: bytes, framed: bool) -> None:
    if framed:
        content = b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(PorticoError):
        parse_certificates(content)


@given(st.data())
def test_a_flipped_byte_never_crashes_the_parser(shared_authority: CertificateAuthority, data: st.DataObject) -> None:
    content = bytearray(shared_authority.pem.encode())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        to_pem(*parse_certificates(bytes(content)))
    except PorticoError:
        return
