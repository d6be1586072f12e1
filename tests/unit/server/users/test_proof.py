"""Proof of a user's certificate: bound to the computer and to the moment, and to a CA of users alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.trust import to_pem
from portico.errors import NotPermitted
from portico.server.users.proof import Challenges, Trust, sign, signed_text, user_name, verify
from tests.peers.user_ca import UserCa

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
TEXT = signed_text("1.aa.bb", "aa" * 32, "5")


@pytest.fixture(scope="module")
def authority() -> UserCa:
    return UserCa("users", NOW)


def trust(*authorities: UserCa, crls: tuple[Path, ...] = (), machines: tuple[UserCa, ...] = ()) -> Trust:
    return Trust(tuple(a.certificate for a in authorities), crls, tuple(a.certificate for a in machines))


def refused(chain: str, signature: str, text: bytes, known: Trust, now: datetime = NOW) -> str:
    with pytest.raises(NotPermitted) as error:
        verify(chain, signature, text, known, now)
    assert error.value.code == "USER_REFUSED"
    return error.value.why


def test_a_user_is_known_by_upn_mail_or_common_name(authority: UserCa) -> None:
    upn, mail = "alice@corp.example.net", "a@example.net"
    for made, name in (
        (authority.issue("alice", upn=upn, mail=mail), upn),
        (authority.issue("alice", mail=mail), mail),
        (authority.issue("alice"), "alice"),
    ):
        certificate, key = made
        assert user_name(certificate) == name
        assert verify(to_pem(certificate), sign(key, TEXT), TEXT, trust(authority), NOW) == name


def test_a_proof_is_of_no_use_for_another_computer_or_challenge(authority: UserCa) -> None:
    certificate, key = authority.issue("alice")
    proof = sign(key, TEXT)
    for other in (signed_text("1.aa.cc", "aa" * 32, "5"), signed_text("1.aa.bb", "aa" * 32, "6")):
        assert "not signed" in refused(to_pem(certificate), proof, other, trust(authority))
    assert "not signed" in refused(to_pem(certificate), "!", TEXT, trust(authority))
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert "not signed" in refused(to_pem(certificate), sign(stranger, TEXT), TEXT, trust(authority))


def test_certificates_of_others_and_for_other_things_are_refused(authority: UserCa, tmp_path: Path) -> None:
    foreign = UserCa("users", NOW)
    certificate, key = foreign.issue("alice")
    assert "not good" in refused(to_pem(certificate), sign(key, TEXT), TEXT, trust(authority))
    assert "no CA" in refused(to_pem(certificate), sign(key, TEXT), TEXT, trust())
    certificate, key = authority.issue("alice", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert "client authentication" in refused(to_pem(certificate), sign(key, TEXT), TEXT, trust(authority))
    certificate, key = authority.issue("alice")
    late = NOW + timedelta(days=400)
    assert "not good" in refused(to_pem(certificate), sign(key, TEXT), TEXT, trust(authority), late)
    crl = tmp_path / "users.crl"
    crl.write_bytes(authority.crl(certificate))
    known = trust(authority, crls=(crl,))
    assert "revoked" in refused(to_pem(certificate), sign(key, TEXT), TEXT, known)
    good, key = authority.issue("bob")
    assert verify(to_pem(good), sign(key, TEXT), TEXT, known, NOW) == "bob"


def test_the_ca_of_computers_is_no_ca_of_users(authority: UserCa) -> None:
    certificate, key = authority.issue("laptop1")
    why = refused(to_pem(certificate), sign(key, TEXT), TEXT, trust(authority, machines=(authority,)))
    assert "CAs of computers" in why


def test_a_challenge_is_good_once_for_two_minutes_and_one_computer() -> None:
    challenges, now = Challenges(), 1_700_000_000.0
    made = challenges.make(KEY, "laptop1", now)
    for keys, machine, at in (
        ([OTHER], "laptop1", now),
        ([KEY], "laptop2", now),
        ([KEY], "laptop1", now + 121),
        ([KEY], "laptop1", now - 121),
    ):
        with pytest.raises(NotPermitted):
            challenges.use(made, keys, machine, at)
    # Another server made it, with a key that has been rotated since.
    challenges.use(made, [OTHER, KEY], "laptop1", now + 60)
    with pytest.raises(NotPermitted):
        challenges.use(made, [KEY], "laptop1", now + 61)


@pytest.mark.parametrize("text", ["", ".", "..", "x.y.z", "1.2", "9" * 400 + ".a.b", "\ud800.a.b"])
def test_nonsense_is_no_challenge(text: str) -> None:
    with pytest.raises(NotPermitted):
        Challenges().use(text.encode("utf-8", "replace").decode(), [KEY], "laptop1", 1.0)
