"""The assistant at work, on a network that the test makes up."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address
from typing import Any

import pytest

from portico.client.assistance import Assistance, Line
from portico.client.assistant import nls
from portico.client.assistant.assistant import Assistant, Connection, Outlook, Ports
from portico.client.assistant.probes import Through
from portico.client.assistant.report import Place, Report, State, Who
from portico.client.assistant.revoked import RevocationList
from portico.client.assistant.settings import AssistantSettings
from portico.client.assistant.surroundings import Card, Surroundings
from portico.client.assistant.technologies import Name
from portico.client.identity import ClientFiles, ClientSettings
from portico.client.status import Failure, Status, Substatus
from portico.errors import Unavailable
from portico.naming.nrpt import Table
from portico.settings.assistant import Probe

HOME = Surroundings((Card("eth0", 2, ("192.168.1.10/24",), ("192.168.1.1",)),), ("203.0.113.1",))
OFFICE = Surroundings((Card("eth0", 2, ("10.0.0.70/24",), ()),), ("10.0.0.53",))
SETTINGS = AssistantSettings(
    nls_url="https://directaccess-nls.corp.example.net/",
    corp_connectivity_host="directaccess-corpconnectivityhost.corp.example.net",
    corp_connectivity_addresses=(IPv6Address("::1"),),
    web_probe_url="http://directaccess-webprobehost.corp.example.net/",
    tunnel_endpoints=(IPv6Address("fd00::1"), IPv6Address("fd00::2")),
    probes=("PING:app.corp.example.net", "SING:a song"),
    support_email="help@corp.example.net",
)
OUTSIDE = nls.Answer(False, "no such name")
INSIDE = nls.Answer(True, "10.0.0.2 answers", known=True)
REMOTE = (Status.CONNECTED_REMOTELY, Substatus.NONE)
CONNECTING = (Status.CONNECTING, Substatus.NONE)


class World:
    """The computer, its network and its tunnel."""

    device = "tunnel"

    def __init__(self, settings: AssistantSettings | None = SETTINGS) -> None:
        self.around = HOME
        self.answers: dict[str, nls.Answer] = {str(HOME): OUTSIDE, str(OFFICE): INSIDE}
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked: list[str] = []
        self.up = self.works = False
        self.limited = self.portal = self.problem_text = ""
        self.refusals: dict[str, str] = {}
        self.events: list[str] = []
        self.fail_to_start = False
        outlook = Outlook(settings, ssl.create_default_context())
        ports = Ports(self._look, self._ask, self._through)
        self.assistant = Assistant(outlook, {Name.IPHTTPS: self}, self, ports)

    async def _look(self) -> Surroundings:
        return self.around

    async def _ask(
        self, url: str, around: Surroundings, _context: ssl.SSLContext, _revoked: RevocationList | None
    ) -> nls.Answer:
        self.asked.append(url)
        await self.answering.wait()
        return self.answers[str(around)]

    def _through(self, device: str, table: Table, context: ssl.SSLContext) -> Through:
        return FakeThrough(self, device, table, context)

    # a way in
    async def bring_up(self) -> None:
        if self.fail_to_start:
            raise Unavailable("The tunnel cannot be opened", why="there is no /dev/net/tun")
        if not self.up:
            self.events.append("up")
        self.up = self.works = True
        self.assistant.poke()

    async def take_down(self) -> None:
        if self.up:
            self.events.append("down")
        self.up = self.works = False

    def obstacle(self) -> str | None:
        return None if self.works else "refused" if self.up else ""

    # the agent
    def connection(self) -> Connection:
        return Connection(REMOTE if self.works else CONNECTING, self.portal, self.limited)

    def rules(self) -> Table:
        return Table([])

    def problem(self, text: str) -> None:
        self.problem_text = text

    async def until(self, fits: Callable[[Report], bool]) -> Report:
        async with asyncio.timeout(30):
            while not fits(self.assistant.report()):  # noqa: ASYNC110 - what is waited for is not an event
                await asyncio.sleep(0.005)
        return self.assistant.report()


class FakeThrough(Through):
    """Answers as the world says."""

    def __init__(self, world: World, device: str, table: Table, context: ssl.SSLContext) -> None:
        super().__init__(device, table, context)
        self._world = world

    async def corp_connectivity(self, name: str, expected: object) -> str:
        return self._world.refusals.get("corp", "")

    async def ping(self, host: str) -> str:
        return self._world.refusals.get(host, "")

    async def page(self, url: str, *, only: int | None = None) -> str:
        assert only == 200
        return self._world.refusals.get("web probe", "")

    async def probe(self, probe: Probe) -> str | None:
        return self._world.refusals.get(str(probe), "")


def play(scene: Callable[[World], Coroutine[Any, Any, None]], settings: AssistantSettings | None = SETTINGS) -> None:
    async def run() -> None:
        world = World(settings)
        task = asyncio.create_task(world.assistant.run())
        try:
            await scene(world)
            assert not task.done(), "it still runs"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def state(report: Report, name: str) -> State:
    return next(check.state for check in report.checks if check.name == name)


def says(status: Status, substatus: Substatus = Substatus.NONE) -> Callable[[Report], bool]:
    return lambda report: (report.status, report.substatus) == (status, substatus)


def test_an_answer_of_the_office_proves_nothing_when_the_computer_is_elsewhere_already() -> None:
    async def scene(world: World) -> None:
        places: list[Place] = []
        world.assistant.on_change = lambda: places.append(world.assistant.report().place)
        world.around = OFFICE
        world.answering.clear()
        world.assistant.changed()
        await world.until(lambda _: bool(world.asked))
        # Carried home in its sleep: the answer is there, and no news of the network yet.
        world.around, world.answers[str(OFFICE)] = HOME, INSIDE
        world.answering.set()
        await world.until(lambda report: report.place is Place.OUTSIDE and report.network == str(HOME))
        assert Place.INSIDE not in places and len(world.asked) >= 2

    play(scene)


def test_outside_it_dials_while_it_asks_and_the_chain_says_that_all_is_well() -> None:
    async def scene(world: World) -> None:
        world.answering.clear()
        early = await world.until(says(Status.CONNECTED_REMOTELY))
        assert early.place is Place.UNKNOWN, "nothing has waited for the location server"
        world.answering.set()
        report = await world.until(lambda report: report.place is Place.OUTSIDE)
        assert (report.status, report.technology, report.network) == (
            Status.CONNECTED_REMOTELY,
            "IPHTTPS",
            "eth0 192.168.1.10/24 by 192.168.1.1",
        )
        assert [(check.name, check.state.value) for check in report.checks] == [
            ("network", "passed"),
            ("network location server", "passed"),
            ("Native IPv6", "skipped"),
            ("6to4", "skipped"),
            ("Teredo", "skipped"),
            ("IPHTTPS", "passed"),
            ("tunnel endpoints", "passed"),
            ("corpConnectivityHost", "passed"),
            ("web probe", "passed"),
            ("probe PING:app.corp.example.net", "passed"),
            ("probe SING:a song", "skipped"),
        ]
        assert report.failed is None and report.support_email == "help@corp.example.net"
        assert world.events == ["up"]

    play(scene)


def test_inside_takes_the_tunnel_down_and_outside_brings_it_back() -> None:
    async def scene(world: World) -> None:
        await world.until(says(Status.CONNECTED_REMOTELY))
        world.around = OFFICE
        world.assistant.changed()
        report = await world.until(says(Status.CONNECTED_LOCALLY))
        assert (report.place, report.technology, world.assistant.inside) == (Place.INSIDE, "None", True)
        assert not world.up
        await world.until(lambda report: state(report, "web probe") is State.SKIPPED)
        world.around = HOME
        world.assistant.changed()
        await world.until(says(Status.CONNECTED_REMOTELY))
        assert world.events == ["up", "down", "up"]

    play(scene)


def test_a_change_inside_ends_the_proof_at_once() -> None:
    async def scene(world: World) -> None:
        world.around = OFFICE
        await world.until(says(Status.CONNECTED_LOCALLY))
        world.answering.clear()
        world.assistant.changed(certainly=True)
        report = await world.until(lambda report: report.place is not Place.INSIDE)
        assert report.place is Place.UNKNOWN
        world.answering.set()
        await world.until(says(Status.CONNECTED_LOCALLY))

    play(scene)


def test_an_answer_that_comes_after_the_network_has_changed_is_not_believed() -> None:
    async def scene(world: World) -> None:
        await world.until(lambda report: report.place is Place.OUTSIDE)
        world.answering.clear()
        world.around = OFFICE
        world.assistant.changed()
        await world.until(lambda report: report.place is Place.UNKNOWN)
        world.around = HOME
        world.assistant.changed()
        await world.until(lambda report: report.network == str(HOME))
        world.answering.set()
        await world.until(lambda report: report.place is Place.OUTSIDE)
        assert "down" not in world.events

    play(scene)


def test_news_that_change_nothing_are_no_change() -> None:
    async def scene(world: World) -> None:
        await world.until(lambda report: report.place is Place.OUTSIDE)
        generation = world.assistant.locator.generation
        for _ in range(20):
            world.assistant.changed()
            await asyncio.sleep(0)
        assert world.assistant.locator.generation == generation

    play(scene)


def test_no_network_is_for_the_user_to_mend() -> None:
    async def scene(world: World) -> None:
        await world.until(says(Status.CONNECTED_REMOTELY))
        world.around, world.works = Surroundings(), False
        world.assistant.changed()
        report = await world.until(says(Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN))
        assert report.failed is not None
        assert (report.failed.name, report.failed.who) == ("network", Who.USER)

    play(scene)


@pytest.mark.parametrize(
    ("broken", "check", "status", "substatus"),
    [
        ({"corp": "is fd00::9"}, "corpConnectivityHost", Status.ERROR, Substatus.NAME_RESOLUTION_FAILURE),
        ({"web probe": "refused"}, "web probe", Status.CONNECTING, Substatus.NONE),
        ({"fd00::1": "a", "fd00::2": "b"}, "tunnel endpoints", Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER),
        (
            {"PING:app.corp.example.net": "silence"},
            "probe PING:app.corp.example.net",
            Status.ERROR,
            Substatus.AUTHENTICATION_FAILURE,
        ),
    ],
)
def test_what_is_broken_is_named_kept_in_use_and_looked_at_again_soon(
    broken: dict[str, str], check: str, status: Status, substatus: Substatus
) -> None:
    async def scene(world: World) -> None:
        world.refusals = dict(broken)
        report = await world.until(lambda report: any(entry.name == check for entry in report.checks if entry.cause))
        assert report.failed is not None and report.failed.name == check
        assert (report.status, report.substatus, report.technology) == (status, substatus, "IPHTTPS")
        world.refusals.clear()
        mended = await world.until(says(Status.CONNECTED_REMOTELY))
        assert mended.since > report.since
        assert world.events == ["up"]

    play(scene)


def test_probes_wait_for_a_user_to_log_in() -> None:
    async def scene(world: World) -> None:
        world.limited, world.refusals = "nobody has logged in", {"PING:app.corp.example.net": "silence"}
        report = await world.until(says(Status.CONNECTED_REMOTELY))
        assert state(report, "probe PING:app.corp.example.net") is State.SKIPPED

    play(scene)


def test_a_portal_in_the_servers_place_is_told_to_the_user() -> None:
    async def scene(world: World) -> None:
        world.fail_to_start = False
        await world.until(says(Status.CONNECTED_REMOTELY))
        world.works, world.portal = False, "another certificate"
        world.assistant.poke()
        report = await world.until(lambda report: state(report, "IPHTTPS") is State.FAILED)
        assert (report.status, report.substatus) == (Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN)
        assert report.failed is not None and report.failed.who is Who.USER

    play(scene)


def test_a_tunnel_that_cannot_be_started_is_told_and_the_watch_goes_on() -> None:
    async def scene(world: World) -> None:
        world.fail_to_start = True
        await world.until(lambda report: report.place is Place.OUTSIDE)
        assert "/dev/net/tun" in world.problem_text
        world.around = OFFICE
        world.assistant.changed()
        await world.until(says(Status.CONNECTED_LOCALLY))

    play(scene)


def test_without_a_location_server_it_is_always_outside_and_asks_nobody() -> None:
    async def scene(world: World) -> None:
        world.around = OFFICE
        report = await world.until(
            lambda report: report.place is Place.OUTSIDE and report.status is Status.CONNECTED_REMOTELY
        )
        assert world.asked == []
        assert state(report, "web probe") is state(report, "corpConnectivityHost") is State.SKIPPED

    play(scene, settings=None)


def test_other_settings_are_taken_up_at_once() -> None:
    async def scene(world: World) -> None:
        await world.until(lambda report: report.place is Place.OUTSIDE)
        world.around = OFFICE
        outlook = Outlook(SETTINGS, world.assistant.outlook.context)
        world.assistant.renew(outlook)
        await world.until(says(Status.CONNECTED_LOCALLY))

    play(scene, settings=None)


class Agent:
    """As much of it as the glue needs."""

    def __init__(self, files: ClientFiles) -> None:
        self.files = files
        self.now = Line(CONNECTING, False, None)
        self.settings = ClientSettings(url="https://da.example.net:443/IPHTTPS", domain="corp.example.net")
        self.problems: list[str] = []

    def line(self) -> Line:
        return self.now

    def client_settings(self) -> ClientSettings:
        return self.settings

    def resolvers(self) -> tuple[str, ...]:
        return ()

    def problem(self, text: str) -> None:
        self.problems.append(text)

    async def bring_up(self) -> None: ...
    async def hang_up(self) -> None: ...


def test_the_agents_words_become_those_of_the_chain(tmp_path: Any, trust_pem: str) -> None:
    agent = Agent(ClientFiles(tmp_path))
    glue = Assistance(agent, trust_pem)
    assert glue.connection() == Connection(CONNECTING)
    agent.now = Line(CONNECTING, False, Failure(0x274D, "connection refused", 1.0))
    assert glue.connection().portal == ""
    agent.now = Line(CONNECTING, False, Failure(0x8009_0325, "not trusted", 1.0))
    assert glue.connection().portal == "not trusted (0x80090325)"
    agent.now = Line(REMOTE, True, Failure(0x8009_0325, "not trusted", 1.0), "Machine", "certificate")
    assert glue.connection().portal == ""
    assert "portico client login" in glue.connection().limited
    agent.now = Line(REMOTE, True, None, "User", "certificate")
    assert glue.connection().limited == ""


@pytest.fixture(scope="module")
def trust_pem() -> str:
    from tests.unit.client.test_assistant_nls import Authority

    return Authority().pem
