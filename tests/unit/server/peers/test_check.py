"""All servers are checked from any of them, each by itself, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from portico import __version__
from portico.errors import InvalidInput, PorticoError
from portico.server.check import Report, Step, check, live
from portico.server.examination import Alive, Examination
from portico.settings.facts import CertificateFile, Facts, Interface, Listener
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until

Play = Callable[[Scenario], None]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def facts(name: str, **changes: Any) -> Facts:
    number = int(name.removeprefix("da"))
    known = Facts(
        now=NOW,
        own_name=name,
        version=__version__,
        interfaces={
            "lo": Interface("lo", addresses=(ip_interface(f"10.0.0.1{number}/24"),)),
            "spare": Interface("spare"),
        },
        resolved={"da.example.net": (ip_address("10.0.0.2"),)},
        listeners=(Listener("udp", ip_address("10.0.0.1"), 53),),
        server_certificate=CertificateFile(
            "certificates.server_certificate",
            "/server.pem",
            names=("da.example.net",),
            not_after=NOW + timedelta(days=90),
            issuer="corp.example.net",
        ),
    )
    return replace(known, **changes)


def show(server: Server, cluster: Cluster, **changes: Any) -> None:
    """What the server finds when it looks at its machine."""

    def look(_settings: Settings | None = None, **asked: bool) -> Facts:
        assert asked in ({}, {"resolve": True, "judge": True, "own": True})
        return facts(server.name, **changes)

    cluster.patch.setattr(server.agent.machine, "facts", look)


async def three(cluster: Cluster) -> tuple[Server, Server, Server]:
    first = await cluster.found()
    servers = (first, await cluster.join(first, "da2"), await cluster.join(first, "da3"))
    newest = first.agent.revision
    assert newest is not None
    await until(lambda: all(s.agent.revision and s.agent.revision.sha256 == newest.sha256 for s in servers))
    for server in servers:
        show(server, cluster)
    return servers


async def report(server: Server, candidate: Settings | None = None) -> Report:
    *steps, last = [item async for item in check(server.agent, candidate)]
    assert isinstance(last, Report)
    assert {step.server for step in steps if isinstance(step, Step)} == {step.server for step in last.servers}
    return last


def found(checked: Report) -> set[tuple[str, tuple[str, ...]]]:
    """Errors with the servers that have them, but the one of the document of these tests, which asks no DNS server."""
    errors = [(f.problem.code, f.servers) for f in checked.findings if f.problem.severity == "error"]
    assert len(set(errors)) == len(errors), "each once"
    return set(errors) - {("DNS64_NO_UPSTREAM", tuple(s.server for s in checked.servers if s.state == "checked"))}


def test_any_server_checks_all_and_names_each_that_differs(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        for server in servers:
            checked = await report(server)
            assert found(checked) == set()
            assert [(step.server, step.state) for step in checked.servers] == [
                ("da1", "checked"),
                ("da2", "checked"),
                ("da3", "checked"),
            ]
            assert checked.revision == server.in_force[0]
        own = facts("da2").server_certificate
        assert own is not None
        show(servers[1], cluster, version="0.7.9", server_certificate=replace(own, names=("da2.example.net",)))
        show(servers[2], cluster, interfaces={}, in_use={ip_address("10.0.0.13"): "02:00:00:00:00:07"})
        expected = {
            ("SERVER_VERSION_APART", ("da2",)),
            ("CERTIFICATE_NAME_MISMATCH", ("da2",)),
            ("SERVER_ADAPTER", ("da3",)),
            ("ADDRESS_NOT_LOCAL", ("da3",)),
            ("LB_ADDRESS_IN_USE", ("da3",)),
        }
        for server in servers:
            checked = await report(server)
            assert found(checked) == expected
            assert checked.errors == len(checked.findings) - checked.warnings
            severities = [finding.problem.severity for finding in checked.findings]
            assert severities == sorted(severities), "errors first"

    play(scenario)


def test_a_candidate_is_checked_everywhere_and_stored_nowhere(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        settings = servers[0].agent.store().latest().settings  # type: ignore[union-attr]
        before = [server.in_force for server in servers]
        bad = settings.model_copy(update={"teredo": settings.teredo.model_copy(update={"state": "enabled"})})
        checked = await report(servers[1], bad)
        assert checked.revision is None
        assert ("NOT_SUPPORTED", ("da1", "da2", "da3")) in found(checked)
        assert settings.load_balancing is not None
        newcomer = settings.load_balancing.servers[0].model_copy(update={"name": "da4", "priority": 9})
        more = settings.load_balancing.model_copy(update={"servers": [*settings.load_balancing.servers, newcomer]})
        checked = await report(servers[0], settings.model_copy(update={"load_balancing": more}))
        assert checked.servers[-1] == Step("da4", "not joined", "", 0.0)
        assert found(checked) == {("LB_ADDRESS_TWICE", ("da1", "da2", "da3"))}
        assert [server.in_force for server in servers] == before

    play(scenario)


def test_servers_that_cannot_be_checked_are_findings(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        await servers[2].stop()

        def fail(*_: Any, **__: Any) -> Facts:
            raise PorticoError("The link cannot be asked", why="no balancer", resolution="Start it")

        cluster.patch.setattr(servers[1].agent.machine, "facts", fail)
        checked = await report(servers[0])
        assert found(checked) == {("SERVER_NOT_CHECKED", ("da2",)), ("SERVER_NOT_CHECKED", ("da3",))}
        assert [step.state for step in checked.servers] == ["checked", "failed", "failed"]
        whys = {f.servers: str(f.problem) for f in checked.findings if f.problem.code == "SERVER_NOT_CHECKED"}
        assert "no balancer" in whys["da2",]
        assert "does not answer" in whys["da3",]

    play(scenario)


def test_a_server_of_another_version_is_named_although_it_cannot_answer(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        routes = "portico.server.peers.routes.answer_examination"

        async def unknown(*_: Any) -> Any:
            raise PorticoError("There is nothing here", code="NO_SUCH_RESOURCE")

        cluster.patch.setattr(routes, unknown)
        link = servers[0].agent.peers.links.get("da2")
        assert link is not None
        await until(lambda: "version" in link.said)
        greet = servers[0].agent.peers.catching_up.catch_up

        async def other(name: str, said: Any, **options: Any) -> None:
            await greet(name, {**said, "version": "0.7.9"} if name == "da2" else said, **options)

        cluster.patch.setattr(servers[0].agent.peers.catching_up, "catch_up", other)
        await until(lambda: link.said["version"] == "0.7.9")
        assert ("SERVER_VERSION_APART", ("da2",)) in found(await report(servers[0]))

    play(scenario)


def test_what_is_alive_is_counted_on_all_servers(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        for count, server in enumerate(servers, 1):
            server.sessions = [{"session": n, "peer": "203.0.113.1:1", "identity": None} for n in range(count)]
            gateway = server.agent.gateway

            async def stats(count: int = count) -> dict[str, Any]:
                return {"nat64": {"bindings": 10 * count}}

            cluster.patch.setattr(gateway, "stats", stats)
            cluster.patch.setattr(type(gateway), "running", True)
        counted = await live(servers[1].agent)
        assert counted.clients == {"da1": 1, "da2": 2, "da3": 3}
        assert counted.bindings == {"da1": 10, "da2": 20, "da3": 30}
        assert counted.silent == ()
        await servers[2].stop()
        assert (await live(servers[0].agent)).silent == ("da3",)

    play(scenario)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"facts": {}},
        {"facts": [], "problems": []},
        {"facts": {"interfaces": 7}, "problems": []},
        {"facts": {"resolved": {"x": ["nowhere"]}}, "problems": []},
        {"facts": {}, "problems": [{"code": "X"}]},
        {"facts": {}, "problems": [{}] * 5001},
    ],
)
def test_an_examination_that_is_none_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInput):
        Examination.from_data(data)
    with pytest.raises(InvalidInput):
        Alive.from_data(data)


def test_an_examination_travels_whole() -> None:
    whole = Examination(facts("da1", in_use={ip_address("fd00::1"): "02:00:00:00:00:07"}), ())
    assert Examination.from_data(whole.as_data()) == whole


def test_a_document_that_the_other_server_cannot_read_is_its_refusal(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        await cluster.join(first, "da2")
        link = first.agent.peers.links.get("da2")
        assert link is not None
        with pytest.raises(SettingsRefused) as caught:
            await link.caller.post("/v1/examination", {"settings": "schema_version: 1\nnews: 1\n"})
        assert "SETTINGS_UNKNOWN_KEY" in {problem.code for problem in caught.value.problems}
        with pytest.raises(InvalidInput):
            await link.caller.post("/v1/examination", {})

    play(scenario)
