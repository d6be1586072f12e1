"""Sockets, certificate and process of the pages as the agent has them, on loopback."""

from __future__ import annotations

import asyncio
import copy
import socket
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.errors import PorticoError, Unavailable
from portico.location.pages import Site
from portico.location.reach import fetch, trusting
from portico.server.credentials import DIRECTORY, Credentials
from portico.server.location.identity import page_identity
from portico.server.location.listeners import Listeners, Place, places
from portico.server.location.pages import Pages
from portico.settings.document import load_data
from portico.settings.effective import Effective, effective
from portico.settings.model import Settings
from tests.dns64.conftest import free_port
from tests.unit.naming.records.test_plan import DATA, FACTS, NLS

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    (tmp_path / DIRECTORY).mkdir(mode=0o700)
    CertificateAuthority.create(tmp_path / DIRECTORY, name="test", now=datetime.now(UTC))
    return Credentials.open(tmp_path)


def document(**sections: Any) -> tuple[Settings, Effective]:
    """With the pages on loopback, at ports that nobody has."""
    data: dict[str, Any] = copy.deepcopy(DATA)
    data["network_location_server"] = {"port": free_port()}
    data["web_probe"] = {"port": free_port()}
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    settings = load_data(data)
    return settings, replace(effective(settings, FACTS), internal_addresses=(LOOPBACK,))


def test_the_pages_are_on_every_intranet_address_and_on_62000_beside_the_entrance() -> None:
    settings = load_data(DATA)
    found = {(place.site, place.text, place.port) for place in places(settings, effective(settings, FACTS))}
    assert found == {
        (site, address, port)
        for site, port in ((Site.NLS, 443), (Site.WEB_PROBE, 80))
        for address in ("10.0.0.2", "fd7c:1a2b:3c4d:1::2")
    }
    single = load_data({**DATA, "server": {**DATA["server"], "internet_interface": "eth1"}})
    values = effective(single, FACTS)
    assert {place.port for place in places(single, values) if place.site is Site.NLS} == {62000}
    assert values.nls_url == f"https://{NLS}:62000/"


def test_a_port_that_is_taken_costs_no_other_page_and_is_had_when_it_is_free() -> None:
    ports = free_port(), free_port()
    wanted = (Place.of(Site.NLS, LOOPBACK, ports[0]), Place.of(Site.WEB_PROBE, LOOPBACK, ports[1]))
    listeners = Listeners()
    with socket.create_server(("127.0.0.1", ports[0])):
        assert listeners.follow(wanted)
        assert [error.code for error in listeners.problems.values()] == ["PORT_IN_USE"]
        assert len(listeners.of(Site.WEB_PROBE)) == 1
    assert listeners.follow(wanted) and not listeners.problems
    assert not listeners.follow(wanted), "nothing changes twice"
    assert listeners.follow(()) and listeners.of(Site.NLS) == []


def test_the_certificate_is_for_its_own_name_and_is_kept(credentials: Credentials) -> None:
    settings, _ = document()
    now = datetime.now(UTC)
    first = page_identity(credentials, settings, now)
    assert page_identity(credentials, settings, now) == first
    assert first.key not in repr(first)
    files = list((credentials.directory / "location").iterdir())
    assert files and all(file.stat().st_mode & 0o077 == 0 for file in files)
    renamed, _ = document(network_location_server={"name": "inside.corp.example.net"})
    assert page_identity(credentials, renamed, now) != first


def test_imported_certificates_must_be_named(credentials: Credentials) -> None:
    imported = {"mode": "imported", "server_certificate": "/a", "server_key": "/a", "client_ca": ["/a"]}
    settings, _ = document(certificates=imported)
    with pytest.raises(PorticoError) as caught:
        page_identity(credentials, settings, datetime.now(UTC))
    assert caught.value.code == "NLS_CERTIFICATE_NOT_NAMED"


def test_imported_certificates_are_served_as_they_are(credentials: Credentials, tmp_path: Path) -> None:
    made = page_identity(credentials, document()[0], datetime.now(UTC))
    chain, key = tmp_path / "nls.pem", tmp_path / "nls.key"
    chain.write_text(made.chain)
    key.write_text(made.key)
    imported = {"mode": "imported", "server_certificate": "/a", "server_key": "/a", "client_ca": ["/a"]}
    section = {"certificate": str(chain), "key": str(key)}
    settings, _ = document(certificates=imported, network_location_server=section)
    found = page_identity(credentials, settings, datetime.now(UTC))
    assert found.chain == made.chain and found.trust == made.chain


def test_the_agent_serves_follows_and_ends(credentials: Credentials) -> None:
    async def body() -> None:
        pages = Pages(credentials, None)
        pages.supervisor.program = replace(pages.supervisor.program, user=None)
        settings, values = document()
        url, address = values.nls_url or "", LOOPBACK
        try:
            await pages.follow(settings, values)
            await pages.supervisor.wait_ready(30.0)
            assert pages.identity is not None and pages.problems(settings) == []
            context = trusting(pages.identity.trust)
            reached = await fetch(url, address, context)
            assert reached.not_after > datetime.now(UTC)
            with pytest.raises(Unavailable, match="certificate is refused"):
                await fetch(url.replace("-nls.", "-other."), address, context)
            with pytest.raises(Unavailable, match="certificate is refused"):
                await fetch(url, address, trusting(None))
            await pages.say({"tunnel": "", "intranet": "gone"})
            assert pages.said.available, "once is not yet an outage"
            await pages.say({"tunnel": "", "intranet": "gone"})
            assert pages.said.reasons == {"intranet": "gone"}
            await pages.say({"tunnel": "", "intranet": ""})
            assert pages.said.available
            first = pages.supervisor.pid
            renamed, fresh = document(network_location_server={"name": "inside.corp.example.net"})
            pages.changed()
            await pages.follow(renamed, fresh)
            await pages.supervisor.wait_ended(10.0)
            await pages.supervisor.wait_ready(30.0)
            assert pages.supervisor.pid != first
            await fetch(fresh.nls_url or "", address, trusting(pages.identity.trust))
            await pages.follow(None, None)
            assert not pages.listeners.sockets
            with pytest.raises(Unavailable) as caught:
                await fetch(url, address, context, timeout=1.0)
            assert caught.value.code == "NLS_UNREACHABLE"
        finally:
            await pages.stop()

    asyncio.run(body())
