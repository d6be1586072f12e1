"""Who gets a tunnel: certificates, authentication modes, TLS versions, resumed sessions."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.gateway.conftest import SERVER_NAME, Authority, wait_for
from tests.peers.iphttps_peer import ENDLESS, Peer, Refused, tls
from tests.timely import Within

from .conftest import TARGET, Site

VERSIONS = {"TLSv1_2": ssl.TLSVersion.TLSv1_2, "TLSv1_3": ssl.TLSVersion.TLSv1_3}
CALL = f"POST /IPHTTPS HTTP/1.1\r\nContent-Length: {ENDLESS}\r\nHost: {SERVER_NAME}\r\n\r\n"


@pytest.fixture(params=list(VERSIONS))
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def only(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def gets_nothing(site: Site, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
    """The whole exchange is tried; no byte of an answer comes back."""
    plain = Peer.connect("127.0.0.1", site.port, context=None, timeout=5.0)
    site.peers.append(plain)
    try:
        plain.stream = context.wrap_socket(plain.stream, server_hostname=SERVER_NAME, session=session)
        plain.request()
        response = plain.response()
    except (OSError, Refused) as error:
        assert not isinstance(error, TimeoutError)
        return
    raise AssertionError(f"the server answered {response.line}")


def test_both_tls_versions_bring_a_tunnel_up(site: Site, version: str) -> None:
    peer = site.join(context=only(site.context(), version))
    peer.ping(TARGET)
    up = site.server.wait_event("session_up")
    assert (up["tls"], up["resumed"], up["segments"]) == (version, False, False)
    identity = up["identity"]
    assert (identity and identity["subject"]) == ("client1" if site.mode == "certificates" else None)


def test_the_identity_is_the_certificate_s(make_site: Callable[..., Site]) -> None:
    site = make_site()
    chain, key, certificate = site.server.authority.issue("laptop-7")
    (site.folder / "a.pem").write_text(chain)
    (site.folder / "a.key").write_text(key)
    site.open(context=tls(site.trust, site.folder / "a.pem", site.folder / "a.key"))
    identity = site.server.wait_event("session_up")["identity"]
    assert identity == {
        "subject": "laptop-7",
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
        **site.server.authority.revoked(certificate),
    }


@pytest.mark.parametrize("who", ["nobody", "foreign", "same name, other key", "expired", "not yet", "revoked"])
def test_without_a_good_certificate_there_is_nothing(make_site: Callable[..., Site], version: str, who: str) -> None:
    site = make_site()
    neighbour = site.join("neighbour")
    ways: dict[str, dict[str, Any]] = {
        "foreign": {"authority": Authority("foreign")},
        "same name, other key": {"authority": Authority("test")},
        "expired": {"lifetime": timedelta(minutes=-1)},
    }
    if who == "revoked":
        chain, key, certificate = site.server.authority.issue("bad")
        (site.folder / "bad.pem").write_text(chain)
        (site.folder / "bad.key").write_text(key)
        context = tls(site.trust, site.folder / "bad.pem", site.folder / "bad.key")
        site.server.config["revoked"] = [site.server.authority.revoked(certificate)]
        site.server.configure()
    elif who == "not yet":
        context = tls(site.trust, *early(site))
    else:
        context = site.context(None if who == "nobody" else "bad", **ways.get(who, {}))
    gets_nothing(site, only(context, version))
    assert site.refused() == ["no_identity" if who == "nobody" else "not_admitted"]
    assert len(site.server.sessions()) == 1
    neighbour.ping(TARGET)


def early(site: Site) -> tuple[Path, Path]:
    """A certificate whose time has not come."""
    authority, key, now = site.server.authority, ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "early")]))
        .issuer_name(authority.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
    )
    paths = site.folder / "early.pem", site.folder / "early.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return paths


def test_mode_none_needs_no_certificate_and_asks_for_none(make_site: Callable[..., Site], version: str) -> None:
    site = make_site("none")
    asked = tls(site.trust, *site.files("client1"))
    site.join(context=only(asked, version)).ping(TARGET)
    assert site.server.wait_event("session_up")["identity"] is None


def test_revocation_closes_the_tunnel_within_a_second(make_site: Callable[..., Site]) -> None:
    site = make_site()
    chain, key, certificate = site.server.authority.issue("stolen")
    (site.folder / "s.pem").write_text(chain)
    (site.folder / "s.key").write_text(key)
    context = tls(site.trust, site.folder / "s.pem", site.folder / "s.key")
    stolen, other = site.join(context=context), site.join("other")
    site.server.config["revoked"] = [site.server.authority.revoked(certificate)]
    with Within(1.0):
        site.server.configure()
        stolen.wait_closed()
    assert site.down() == ["revoked"]
    other.ping(TARGET)


def test_a_certificate_that_expires_ends_its_tunnel(make_site: Callable[..., Site]) -> None:
    site = make_site()
    peer = site.join(context=site.context("short", lifetime=timedelta(seconds=2)))
    peer.ping(TARGET)
    peer.wait_closed(30.0)
    assert site.down() == ["not_admitted"]


def ticket_of(peer: Peer) -> ssl.SSLSession:
    """The session of a peer that has heard from the server (TLS 1.3 sends tickets with the first data)."""
    assert isinstance(peer.stream, ssl.SSLSocket)
    session = peer.stream.session
    assert session is not None and session.has_ticket
    return session


def resume(site: Site, context: ssl.SSLContext, session: ssl.SSLSession) -> Peer:
    peer = Peer.connect("127.0.0.1", site.port, context=None, timeout=5.0)
    site.peers.append(peer)
    peer.stream = context.wrap_socket(peer.stream, server_hostname=SERVER_NAME, session=session)
    return peer


def test_tickets_work_at_a_second_gateway(make_site: Callable[..., Site], mode: str, version: str) -> None:
    """Any server of a cluster takes a client over without a full handshake, and knows who it is."""
    keys = ["11" * 32, "22" * 32]
    first = make_site(mode, change=lambda config: config["tls"].update(ticket_keys=keys))
    second = make_site(mode, change=lambda config: config["tls"].update(ticket_keys=keys[::-1]))
    stranger = make_site(mode, change=lambda config: config["tls"].update(ticket_keys=["33" * 32]))
    context = only(first.context(), version)
    peer = first.join(context=context)
    session = ticket_of(peer)
    for site, resumed in ((first, True), (second, True), (stranger, False)):
        again = resume(site, context, session)
        again.open()
        again.configure(wait=0.05)
        again.ping(TARGET)
        up = site.server.wait_event("session_up")
        assert up["resumed"] is resumed
        assert (up["identity"] and up["identity"]["subject"]) == ("client1" if mode == "certificates" else None)
        assert site.server.stats()["gateway"]["resumed"] == int(resumed)


def test_a_ticket_does_not_outlive_the_certificate(make_site: Callable[..., Site], version: str) -> None:
    """Resumed sessions of revoked certificates and of authorities that are trusted no more get nothing."""
    site = make_site()
    chain, key, certificate = site.server.authority.issue("lost")
    (site.folder / "l.pem").write_text(chain)
    (site.folder / "l.key").write_text(key)
    context = only(tls(site.trust, site.folder / "l.pem", site.folder / "l.key"), version)
    session = ticket_of(site.join(context=context))
    resume(site, context, session).open()
    site.server.config["revoked"] = [site.server.authority.revoked(certificate)]
    site.server.configure()
    site.down(2)
    gets_nothing(site, context, session)
    site.server.config["revoked"] = []
    site.server.config["tls"]["client_ca"] = Authority("another").pem
    site.server.configure()
    gets_nothing(site, context, session)
    assert site.refused(2) == ["not_admitted"] * 2
    assert site.server.sessions() == []


def test_a_ticket_does_not_outlive_the_expiry(make_site: Callable[..., Site], version: str) -> None:
    site = make_site()
    context = only(site.context("short", lifetime=timedelta(seconds=2)), version)
    peer = site.join(context=context)
    session = ticket_of(peer)
    peer.wait_closed(5.0)
    gets_nothing(site, context, session)
    assert site.refused() == ["not_admitted"]


def test_a_ticket_of_mode_none_is_no_identity(make_site: Callable[..., Site], version: str) -> None:
    site = make_site("none")
    context = only(site.context(), version)
    session = ticket_of(site.join(context=context))
    site.server.config["iphttps"]["authentication"] = "certificates"
    site.server.configure()
    gets_nothing(site, context, session)
    assert site.refused() == ["no_identity"]


def test_minimum_version_keeps_tls_1_2_out(make_site: Callable[..., Site]) -> None:
    site = make_site(change=lambda config: config["tls"].update(minimum_version="1.3"))
    gets_nothing(site, only(site.context(), "TLSv1_2"))
    site.join(context=only(site.context(), "TLSv1_3")).ping(TARGET)


def test_no_old_versions_no_null_ciphers_no_h2(site: Site) -> None:
    """OpenSSL as an independent peer offers what must not be taken."""

    def offer(*options: str) -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.port}", "-servername", SERVER_NAME, *options]
        run = subprocess.run(command, input=b"", capture_output=True, timeout=10)
        return run.stdout.decode("latin-1")

    for options in (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1_2", "-cipher", "NULL:@SECLEVEL=0"]):
        assert "Cipher is (NONE)" in offer(*options), options
    assert "No ALPN negotiated" in offer("-alpn", "h2,http/1.1")


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
def test_openssl_as_an_independent_peer(site: Site, flag: str) -> None:
    """The bytes of the answer, exactly."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.port}", "-servername", SERVER_NAME, flag]
    command += ["-CAfile", str(site.trust), "-verify_return_error", "-quiet", "-ign_eof"]
    if site.mode == "certificates":
        certificate, key = site.files("openssl")
        command += ["-cert", str(certificate), "-key", str(key)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    try:
        process.stdin.write(CALL.encode())
        process.stdin.flush()
        wait_for(lambda: site.server.events("session_up"), "the session")
        site.server.gateway.disconnect([site.server.sessions()[0]["session"]])
        answer = process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    days, months = "Mon|Tue|Wed|Thu|Fri|Sat|Sun", "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    date = rf"({days}), \d\d ({months}) 20\d\d \d\d:\d\d:\d\d GMT"
    wanted = rf"HTTP/1\.1 200 OK\r\nServer: Microsoft-HTTPAPI/2\.0\r\nDate: {date}\r\n\r\n"
    assert re.fullmatch(wanted.encode(), answer), answer


def test_curl_gets_clean_answers(make_site: Callable[..., Site]) -> None:
    site = make_site("none")
    base = ["curl", "-sS", "--max-time", "5", "--cacert", str(site.trust)]
    base += ["--connect-to", f"{SERVER_NAME}:443:127.0.0.1:{site.port}"]
    url = f"https://{SERVER_NAME}"
    run = subprocess.run([*base, "-w", "%{http_code} %{http_version}", f"{url}/"], capture_output=True, text=True)
    assert run.stdout == "not found\n404 1.1", run
    with subprocess.Popen([*base, "-d", "body", f"{url}/portico/v1/enrol"], stdout=subprocess.PIPE) as curl:
        request = site.server.wait_event("request")
        assert request["body_base64"] == "Ym9keQ=="
        site.server.gateway.answer(request["request"], 200, "text/plain", b"welcome")
        assert curl.communicate(timeout=5)[0] == b"welcome"
    endless = ["-X", "POST", "-H", "Content-Length: 18446744073709551615", "--max-time", "0.5", "-i"]
    stream = subprocess.run([*base, *endless, f"{url}/IPHTTPS"], capture_output=True)
    assert stream.stdout.startswith(b"HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: ")
