"""Enrolment against a small HTTPS server: the pin, the key that stays, and every way it can go wrong."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from portico.certificates.tokens import Token
from portico.certificates.trust import parse_certificates, pin, to_pem
from portico.client import enrol
from portico.client.identity import ClientFiles, LocalSettings, Proxy
from portico.errors import InvalidInput, NotFound, NotPermitted, PorticoError, Unavailable

SETTINGS = {
    "url": "https://localhost:443/IPHTTPS",
    "domain": "corp.example.net",
    "nrpt": [{"namespace": ".corp.example.net", "dns_servers": ["fd00:3333::1"]}],
    "dns_address": "fd00:3333::1",
    "intranet_prefixes": ["fd00::/48"],
    "revision": 3,
    "of_a_later_version": True,
}


class Authority:
    """A CA that signs for a day."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._sign(name, name, self.key.public_key(), ca=True)
        self.pem = to_pem(self.certificate)

    def issue(self, name: str, key: Any, *, host: str | None = None) -> str:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        return to_pem(self._sign(subject, self.certificate.subject, key, host=host))

    def _sign(
        self, subject: x509.Name, issuer: x509.Name, key: Any, *, ca: bool = False, host: str | None = None
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Server:
    """An HTTPS server that enrols; its attributes decide how it misbehaves."""

    def __init__(self, directory: Path, host: str = "localhost") -> None:
        self.authority = Authority()
        self.trust = self.authority.pem
        self.requests: list[tuple[str, dict[str, Any], bool]] = []
        self.override: tuple[int, bytes] | None = None
        self.wrong_key = False
        key = ec.generate_private_key(ec.SECP256R1())
        path = directory / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self.authority.issue(host, key.public_key(), host=host).encode()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                certificate = self.connection.getpeercert()
                code, data = outer.answer(self.path, json.loads(body) if body else {}, bool(certificate))
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve  # noqa: N815 - the names http.server calls

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that refuses the certificate is what some tests are about

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, path: str, body: dict[str, Any], certificate: bool) -> tuple[int, bytes]:
        self.requests.append((path, body, certificate))
        if path.endswith("/trust"):
            return 200, self.trust.encode()
        if self.override is not None:
            return self.override
        if path.endswith("/client-settings"):
            return 200, json.dumps({**SETTINGS, "revision": 4}).encode()
        key = x509.load_pem_x509_csr(body["csr"].encode()).public_key()
        if self.wrong_key:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
        chain = self.authority.issue("client1", key)
        return 200, json.dumps({"certificate_chain": chain, "trust": self.trust, "settings": SETTINGS}).encode()

    def token(self, **changes: str) -> Token:
        fields = {"url": self.url, "pin": pin(self.authority.pem), "id": "1", "secret": "s3cret", "name": "client1"}
        return Token(**{**fields, **changes})

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def files(tmp_path: Path) -> ClientFiles:
    return ClientFiles(tmp_path / "client")


def refused(code: str, *, override: tuple[int, bytes] | None = None, server: Server) -> PorticoError:
    server.override = override
    with pytest.raises(PorticoError) as caught:
        enrol.enrol(server.token(), server.trust, None)
    assert caught.value.code == code
    assert "s3cret" not in str(caught.value)
    return caught.value


def test_enrolment_gives_an_identity_whose_key_never_left(server: Server, files: ClientFiles) -> None:
    token = server.token()
    trust = enrol.fetch_trust(token, None)
    enrolled = enrol.enrol(token, trust, None)
    enrolled.save(files)
    assert files.identity().certificate.public_key() is not None
    assert files.settings().revision == 3
    assert files.settings().table().servers_for("app.corp.example.net")
    assert "PRIVATE" not in json.dumps(server.requests)
    assert {path.stat().st_mode & 0o777 for path in files.directory.iterdir()} == {0o600}
    assert files.directory.stat().st_mode & 0o777 == 0o700


def test_a_server_with_another_ca_is_found_out_before_the_secret_is_sent(server: Server) -> None:
    with pytest.raises(NotPermitted, match="not the one that made this token") as caught:
        enrol.fetch_trust(server.token(pin="0" * 64), None)
    assert caught.value.code == "PIN_MISMATCH"
    server.trust = "<html>welcome to the hotel</html>"
    with pytest.raises(NotPermitted, match="sends no certificates"):
        enrol.fetch_trust(server.token(), None)
    assert "s3cret" not in json.dumps(server.requests)


def test_a_certificate_for_another_name_is_refused_before_the_secret_is_sent(tmp_path: Path) -> None:
    server = Server(tmp_path, host="other.example.net")
    try:
        assert refused("SERVER_NOT_TRUSTED", server=server)
        assert not server.requests
    finally:
        server.stop()


def test_the_servers_own_words_reach_the_person(server: Server) -> None:
    error = {"code": "TOKEN_REFUSED", "what": "the token is not accepted", "why": "expired", "resolution": "Ask again"}
    found = refused("TOKEN_REFUSED", override=(403, json.dumps({"error": error}).encode()), server=server)
    assert isinstance(found, NotPermitted)
    assert (found.why, found.resolution) == ("expired", "Ask again")


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ((404, b"<html>nothing here</html>"), "SERVER_REFUSED"),
        ((500, b'{"error": 7}'), "SERVER_REFUSED"),
        ((200, b"\xff\xfe"), "ANSWER_INVALID"),
        ((200, b"[]"), "ANSWER_INVALID"),
        ((200, b"{}"), "ANSWER_INVALID"),
        ((200, b"[" * 100_000), "ANSWER_INVALID"),
        ((200, b" " * (2 << 20)), "ANSWER_INVALID"),
    ],
)
def test_garbage_from_the_server_is_named_as_such(server: Server, override: tuple[int, bytes], code: str) -> None:
    refused(code, override=override, server=server)


def test_a_certificate_for_another_key_is_refused(server: Server) -> None:
    server.wrong_key = True
    assert "another key" in refused("ANSWER_INVALID", server=server).why


def test_nobody_there_is_said_with_the_way_that_was_tried(server: Server) -> None:
    token = server.token(url="https://localhost:1")
    with pytest.raises(Unavailable) as caught:
        enrol.fetch_trust(token, Proxy("localhost", 1, "user", "hunter2"))
    assert "http://localhost:1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_renewal_and_settings_show_the_certificate(server: Server, files: ClientFiles) -> None:
    enrol.enrol(server.token(), server.trust, None).save(files)
    before = files.identity()
    url = f"{server.url}/IPHTTPS"
    key, chain = enrol.renew(before, server.trust, url, None)
    assert enrol.fetch_settings(before, server.trust, url, None).revision == 4
    assert [request[2] for request in server.requests] == [False, True, True]
    files.save_identity(key, chain)
    assert files.identity().certificate.serial_number == parse_certificates(chain)[0].serial_number


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\n"])
@pytest.mark.parametrize("name", ["identity.pem", "trust.pem", "settings.json"])
def test_a_damaged_file_is_named_and_its_copy_serves(
    server: Server, files: ClientFiles, name: str, damage: bytes
) -> None:
    enrol.enrol(server.token(), server.trust, None).save(files)
    reads = {"identity.pem": files.identity, "trust.pem": files.trust, "settings.json": files.settings}
    good = reads[name]()
    (files.directory / name).write_bytes(damage)
    assert str(reads[name]()) == str(good)
    assert name in files.problems[name]
    (files.directory / f"{name}.last").write_bytes(damage)
    with pytest.raises(PorticoError, match=name):
        reads[name]()


def test_a_computer_that_is_not_enrolled_says_how_to(files: ClientFiles) -> None:
    with pytest.raises(NotFound, match="portico client enrol"):
        files.identity()


def test_the_proxys_password_is_in_no_message() -> None:
    local = LocalSettings(proxy="http://user:hunter2@proxy.example:3128")
    proxy = enrol.effective_proxy(local)
    assert proxy is not None
    assert "hunter2" not in repr(proxy)
    assert proxy.as_config() == {"host": "proxy.example", "port": 3128, "user": "user", "password": "hunter2"}
    environment = LocalSettings(proxy="environment")
    assert enrol.effective_proxy(environment, {}) is None
    with pytest.raises(InvalidInput) as caught:
        enrol.effective_proxy(environment, {"https_proxy": "socks5://user:hunter2@proxy"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"proxy": "http://u:hunter2@:1", "dns": "x"}', b"[]", b"{"])
def test_a_damaged_choice_is_named_without_its_content(files: ClientFiles, content: bytes) -> None:
    files.directory.mkdir()
    (files.directory / "local.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"local\.json") as caught:
        files.local()
    assert "hunter2" not in str(caught.value)
