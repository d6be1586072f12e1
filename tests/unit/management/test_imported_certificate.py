"""The API with a certificate of an organisation's CA instead of one of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portico.certificates.ca import CertificateAuthority
from portico.management.cli.profiles import Profile
from portico.management.cli.remote import tls
from portico.settings.document import load_data
from tests.unit.management.conftest import ROLES, Network, until
from tests.unit.management.test_access import certificate

Run = Callable[..., None]


def issue(authority: CertificateAuthority, directory: Path, address: str) -> None:
    """A certificate for an address and its key, as an organisation's CA hands them out."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = authority.window(datetime.now(UTC), 30)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "da1")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    for path, data in (
        (directory / "api.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        (directory / "api.pem", made.public_bytes(Encoding.PEM)),
    ):
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)


def test_an_imported_certificate_is_served_and_followed(network: Run, tmp_path: Path) -> None:
    office = CertificateAuthority.create(tmp_path / "office", name="Office CA", now=datetime.now(UTC))

    async def body(net: Network) -> None:
        async def change(**section: Any) -> None:
            latest = net.agent.store().latest()
            assert latest is not None
            management = {"listen": [net.address], "roles": ROLES, **section}
            document = load_data({**latest.settings.as_data(), "management": management})
            await net.agent.change(document, expected=None, author="test")
            await net.listener.follow()

        async def serial(context: ssl.SSLContext, address: str = net.address) -> int:
            reader, writer = await asyncio.open_connection(net.address, 2506, ssl=context, server_hostname=address)
            found = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
            writer.close()
            del reader
            return found.serial_number

        profile = Profile("office", net.url, office.pem, names=True)
        own = tls(dataclasses.replace(profile, authority=net.authority, names=False))
        before = await serial(own)
        issue(office, tmp_path, net.address)
        files = {"certificate_file": str(tmp_path / "api.pem"), "key_file": str(tmp_path / "api.key")}
        await change(**files)
        assert net.listener.problem is None
        first = await serial(tls(profile))
        assert first != before
        for context, address in ((own, net.address), (tls(profile), "da9.corp.example.net")):
            try:
                await serial(context, address)
            except ssl.SSLCertVerificationError:
                continue
            raise AssertionError("another CA, or another server's name, was trusted")

        # Administrators' certificates are still of the cluster's own CA.
        mine = dataclasses.replace(profile, certificate=str(certificate(net, tmp_path, "alice")))
        async with httpx.AsyncClient(base_url=net.url, verify=tls(mine), trust_env=False) as http:
            assert (await http.get("/v1/whoami")).json()["role"] == "administrator"
            assert (await http.get("/v1/login")).json()["authority"] is None, "it signs nothing that is shown here"

        issue(office, tmp_path, net.address)
        await net.listener.follow()
        second = await serial(tls(profile))
        assert second != first, "whoever renews it exchanges the files"

        (tmp_path / "api.key").chmod(0o644)
        await net.listener.follow()
        assert net.listener.problem is not None and net.listener.problem.code == "MANAGEMENT_CERTIFICATE"
        assert await serial(tls(profile)) == second, "the API goes on with what it has"
        (tmp_path / "api.pem").write_text("damaged")
        (tmp_path / "api.key").chmod(0o600)
        await net.listener.follow()
        assert net.listener.problem is not None and net.listener.problem.code == "MANAGEMENT_CERTIFICATE"
        await change()
        await until(lambda: net.listener.problem is None)
        await serial(own)

    network(body)
