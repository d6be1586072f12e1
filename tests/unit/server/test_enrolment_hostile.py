"""Enrolment as it meets the Internet: replayed and shared tokens, requests that are none, many at once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import MAXIMUM_RSA_BITS, make_request
from portico.certificates.revocation import CRL_NAME
from portico.certificates.tokens import Token, create_token
from portico.certificates.trust import common_name, parse_certificates, serial_hex
from portico.client.assistant.revoked import parse as parse_revoked
from portico.server.credentials import MAXIMUM_HANDED_OUT, Credentials, now_utc
from portico.server.enrolment import Enrolment
from portico.server.gateway import Request, Response
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts
from tests.unit.server.test_last_good_state import DATA, Killed, Server, install

SETTINGS = load_data(DATA)


class Site:
    """A server that answers enrolment; `tokens` makes them as the administrator does."""

    def __init__(self, state: Path) -> None:
        self.credentials = Credentials.open(state)
        CertificateAuthority.create(self.credentials.directory, name="corp.example.net", now=now_utc())
        self.credentials.reload_authority()
        values = effective(SETTINGS, Facts())
        self.enrolment = Enrolment(self.credentials, lambda: (SETTINGS, values, 1), now_utc)

    def token(self, name: str = "client1") -> Token:
        return create_token(
            self.credentials.usable_store(),
            name=name,
            url="https://da.example.net:443",
            trust=self.credentials.trust(SETTINGS),
            now=now_utc(),
        )

    def post(self, body: bytes, path: str = "/portico/v1/enrol", identity: dict[str, Any] | None = None) -> Response:
        return self.enrolment.answer(Request(1, "203.0.113.5:4000", "POST", path, body, identity))

    def enrol(self, token: Token, csr: str) -> Response:
        return self.post(json.dumps({"id": token.id, "secret": token.secret, "csr": csr}).encode())

    def issued(self) -> list[str]:
        return [record.name for record in self.credentials.usable_store().issued(kind="client")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.credentials.close()


def code(response: Response) -> str:
    return str(json.loads(response.body)["error"]["code"])


def test_a_used_token_is_worth_nothing(site: Site) -> None:
    token = site.token()
    request = make_request("client1")[1]
    assert site.enrol(token, request).status == 200
    for csr in (request, make_request("client1")[1]):
        again = site.enrol(token, csr)
        assert (again.status, code(again)) == (403, "TOKEN_REFUSED")
    assert site.issued() == ["client1"]


def test_of_many_that_use_one_token_at_once_exactly_one_wins(site: Site) -> None:
    token = site.token()
    requests = [make_request("client1")[1] for _ in range(16)]
    barrier = threading.Barrier(16)

    def enrol(csr: str) -> int:
        barrier.wait()
        return site.enrol(token, csr).status

    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(enrol, requests)) == {200: 1, 403: 15}
    assert site.issued() == ["client1"]


def test_a_hundred_computers_enrol_at_once(site: Site) -> None:
    work = [(site.token(f"client{number}"), make_request(f"client{number}")[1]) for number in range(100)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda pair: site.enrol(*pair), work))
    assert {answer.status for answer in answers} == {200}
    assert sorted(site.issued()) == sorted(f"client{number}" for number in range(100))
    serials = {
        serial_hex(parse_certificates(json.loads(answer.body)["certificate_chain"])[0].serial_number)
        for answer in answers
    }
    assert len(serials) == 100


def signed(subject: list[tuple[x509.ObjectIdentifier, str]], *extensions: x509.ExtensionType, key: Any = None) -> str:
    key = key if key is not None else ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_what_a_request_asks_for_beside_its_key_is_ignored(site: Site) -> None:
    csr = signed(
        [(x509.NameOID.COMMON_NAME, "administrator"), (x509.NameOID.ORGANIZATION_NAME, "Evil")],
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("da.example.net")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    answer = json.loads(site.enrol(site.token("client1"), csr).body)
    certificate = parse_certificates(answer["certificate_chain"])[0]
    assert answer["name"] == common_name(certificate.subject) == "client1"
    assert certificate.subject.rfc4514_string() == "CN=client1"
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def giant_key() -> str:
    """A well-formed request with a modulus of 12,288 bits; its signature is never looked at."""
    small = rsa.generate_private_key(65537, 2048)
    der = bytearray(
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(small, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    giant = rsa.RSAPublicNumbers(65537, (1 << 12_287) | 1).public_key()
    assert giant.key_size > MAXIMUM_RSA_BITS
    spki = giant.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    former = small.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    at = der.index(former)
    grown = bytes(der[:at]) + spki + bytes(der[at + len(former) :])
    added = len(spki) - len(former)
    # Both outer SEQUENCEs have two-byte lengths: request at offset 0, its information at offset 4.
    fixed = bytearray(grown)
    for place in (2, 6):
        length = int.from_bytes(fixed[place : place + 2]) + added
        fixed[place : place + 2] = length.to_bytes(2)
    import base64

    text = base64.encodebytes(bytes(fixed)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


BAD_REQUESTS: dict[str, Callable[[], str]] = {
    "garbage": lambda: "\x00\x01garbage",
    "truncated": lambda: make_request("a")[1][:200],
    "a lone surrogate": lambda: "\ud800",
    "larger than 16 KiB": lambda: make_request("a")[1] + "#" * 20_000,
    "a giant key": giant_key,
    "a short key": lambda: signed([], key=rsa.generate_private_key(65537, 1024)),
    "an unusual curve": lambda: signed([], key=ec.generate_private_key(ec.SECP256K1())),
}


@pytest.mark.parametrize("kind", BAD_REQUESTS)
def test_a_request_that_cannot_be_signed_leaves_the_token_open(kind: str, site: Site) -> None:
    token = site.token()
    refused = site.enrol(token, BAD_REQUESTS[kind]())
    assert refused.status == 400, refused.body
    assert code(refused) in ("REQUEST_INVALID", "REQUEST_MALFORMED")
    assert site.issued() == []
    assert site.enrol(token, make_request("client1")[1]).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"id": 1, "secret": 2, "csr": 3}',
        b'{"id": "", "secret": "", "csr": ""}',
        b'{"id": "\\ud800", "secret": "a", "csr": "a"}',
        b'{"id": "a", "secret": "\\udfff", "csr": "a"}',
        b"[" * 32_768,
        b'{"id": "' + b"x" * (32_768 - 40) + b'", "secret": "a", "csr": "a"}',
        b"9" * 32_768,
        b"\xff" * 32_768,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_request_is_refused(body: bytes, site: Site) -> None:
    for path in ("/portico/v1/enrol", "/portico/v1/renew"):
        answer = site.post(body, path, {"issuer_sha256": "aa", "serial": "1"})
        assert 400 <= answer.status < 500, answer.body
        assert code(answer) != "INTERNAL"


def test_a_kill_at_any_step_of_an_enrolment_leaves_token_and_certificate_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portico.certificates import issue
    from portico.certificates.store import CertificateStore

    for number, (owner, name) in enumerate(
        ((issue, "redeem"), (CertificateStore, "add_issued"), (issue, "end_entity"), (issue, "to_pem"))
    ):
        site = Site(tmp_path / str(number))
        token = site.token()
        csr = make_request("client1")[1]
        step = getattr(owner, name)

        def killed(*arguments: Any, step: Any = step, **options: Any) -> Any:
            step(*arguments, **options)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(Killed):
                site.enrol(token, csr)
        site.credentials.close()
        site.credentials.store = None
        again = Credentials.open(tmp_path / str(number))
        (record,) = again.usable_store().tokens()
        issued = again.usable_store().issued(kind="client")
        assert (record.used is not None) == bool(issued), name
        again.close()


def test_a_renewal_of_a_revoked_certificate_is_refused_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        server = Server(tmp_path / "state", monkeypatch)
        serial = await install(server, SETTINGS)
        again = Server(tmp_path / "state", monkeypatch)
        await again.agent.start()
        authority = again.agent.credentials.authority
        assert authority is not None
        identity = {"issuer_sha256": authority.issuer_sha256, "serial": serial}
        csr = json.dumps({"csr": make_request("lost")[1]}).encode()
        request = Request(1, "203.0.113.5:4000", "POST", "/portico/v1/renew", csr, identity)
        answer = again.agent.enrolment.answer(request)
        assert (answer.status, code(answer)) == (403, "RENEWAL_REFUSED")
        await again.agent.stop()

    asyncio.run(body())


def test_without_authentication_clients_still_follow_the_settings(site: Site) -> None:
    def ask(authentication: str, method: str, path: str) -> Response:
        settings = load_data({**DATA, "ip_https": {"authentication": authentication}})
        values = effective(settings, Facts())
        enrolment = Enrolment(site.credentials, lambda: (settings, values, 7), now_utc)
        return enrolment.answer(Request(1, "203.0.113.5:4000", method, f"/portico/v1/{path}", b"{}", None))

    assert json.loads(ask("none", "GET", "client-settings").body)["revision"] == 7
    assert code(ask("certificates", "GET", "client-settings")) == "CERTIFICATE_NEEDED"
    assert code(ask("none", "POST", "renew")) == "AUTHENTICATION_NONE"
    assert code(ask("certificates", "POST", "renew")) == "CERTIFICATE_NEEDED"


def test_the_revocation_list_is_for_everybody_once_there_is_one(site: Site) -> None:
    def ask(method: str = "GET") -> Response:
        return site.enrolment.answer(Request(1, "203.0.113.5:4000", method, "/portico/v1/crl", b"", None))

    assert (ask().status, ask("POST").status) == (404, 405)
    site.credentials.write_crl(now_utc())
    answer = ask()
    assert answer.status == 200
    number = parse_revoked(answer.body.decode(), site.credentials.trust(SETTINGS)).number
    site.credentials.write_crl(now_utc())
    assert parse_revoked(ask().body.decode(), site.credentials.trust(SETTINGS)).number > number
    (site.credentials.directory / CRL_NAME).write_bytes(b"x" * (MAXIMUM_HANDED_OUT + 1))
    assert ask().status == 404
