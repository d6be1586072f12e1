"""The machine's way to the resolver: taken, kept against others, given back."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from portico.client.identity import ClientSettings, LocalSettings, NrptRule
from portico.client.naming import Naming
from portico.client.resolv_conf import ResolvConfFile
from portico.errors import Conflict

SETTINGS = ClientSettings(
    url="https://da.corp.example.net/IPHTTPS",
    domain="corp.example.net",
    nrpt=(NrptRule(namespace=".corp.example.net", dns_servers=("fd00:3333::1",)),),
)


@pytest.fixture
def file(tmp_path: Path) -> ResolvConfFile:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\nnameserver 127.0.0.1\n")
    return ResolvConfFile(tmp_path / "resolv.conf", tmp_path / "before")


def naming(file: ResolvConfFile, *, changes: list[int] | None = None, **local: object) -> Naming:
    seen = changes if changes is not None else []
    choices = LocalSettings.model_validate({"dns": "resolv_conf", "resolver_addresses": ("127.0.0.1",), **local})
    return Naming(file, "portico-iphttps", choices, port=0, on_change=lambda: seen.append(1))


def test_the_server_itself_and_our_own_address_are_never_asked_through_us(file: ResolvConfFile) -> None:
    async def run() -> None:
        found = naming(file)
        await found.start(SETTINGS)
        assert found.outside() == ("192.0.2.1",)
        assert found.core.exempt == {"da.corp.example.net"}
        await found.stop()

    asyncio.run(run())
    assert file.path.read_text().startswith("nameserver 192.0.2.1")


def test_what_a_dhcp_client_writes_is_adopted_and_taken_over_again(file: ResolvConfFile) -> None:
    async def run() -> None:
        changes: list[int] = []
        found = naming(file, changes=changes)
        await found.start(SETTINGS)
        file.path.write_text("nameserver 192.0.2.77\n")
        await found.look()
        assert file.is_ours()
        assert found.outside() == ("192.0.2.77",)
        assert len(changes) == 2
        await found.look()
        assert len(changes) == 2
        await found.stop()

    asyncio.run(run())
    assert file.path.read_text() == "nameserver 192.0.2.77\n"


def test_a_file_is_not_taken_over_while_somebody_writes_it(file: ResolvConfFile) -> None:
    async def run() -> None:
        found = naming(file)
        await found.start(SETTINGS)
        with file.path.open("w") as written:  # empty from now on

            async def write() -> None:
                await asyncio.sleep(0.12)
                written.write("nameserver 192.0.2.77\n")
                written.flush()

            writing = asyncio.create_task(write())
            await found.look()
            await writing
        assert file.is_ours() and found.outside() == ("192.0.2.77",)
        await found.stop()

    asyncio.run(run())
    assert file.path.read_text() == "nameserver 192.0.2.77\n"


def test_a_file_without_servers_is_taken_over_all_the_same(file: ResolvConfFile) -> None:
    async def run() -> None:
        found = naming(file)
        await found.start(SETTINGS)
        file.path.write_text("# no network\n")
        await found.look()
        assert file.is_ours() and found.outside() == ()
        await found.stop()

    asyncio.run(run())


def test_a_resolver_that_cannot_listen_leaves_the_machine_as_it_was(file: ResolvConfFile) -> None:
    async def run() -> None:
        first = naming(file, dns="resolv_conf")
        await first.start(SETTINGS)
        other = ResolvConfFile(file.path.with_name("other"), file.path.with_name("other.before"))
        other.path.write_text("nameserver 192.0.2.1\n")
        choices = LocalSettings(dns="resolv_conf", resolver_addresses=("127.0.0.1",))
        with pytest.raises(Conflict):
            await Naming(other, "portico-iphttps", choices, port=first.server.port).start(SETTINGS)
        assert other.path.read_text() == "nameserver 192.0.2.1\n"
        await first.stop()

    asyncio.run(run())


def test_dns_none_touches_nothing(file: ResolvConfFile) -> None:
    async def run() -> None:
        found = naming(file, dns="none")
        await found.start(SETTINGS)
        assert not file.is_ours()
        await found.look()
        await found.stop()

    asyncio.run(run())


def test_a_resolver_that_was_here_before_goes_on_being_asked(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    file = ResolvConfFile(tmp_path / "resolv.conf", tmp_path / "before")

    async def run(port: int) -> None:
        choices = LocalSettings(dns="resolv_conf", resolver_addresses=("127.0.0.1", "127.0.0.64"))
        found = Naming(file, "portico-iphttps", choices, port=port, on_change=lambda: None)
        await found.start(SETTINGS)
        assert found.server.address == "127.0.0.64"
        assert found.outside() == ("127.0.0.1",)
        await found.stop()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        asyncio.run(run(taken.getsockname()[1]))
