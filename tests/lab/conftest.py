"""A lab for each module of scenarios, with a name of its own, so that several runs do not meet."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from portico.lab import deployment
from portico.lab.hosts import Host
from portico.lab.lab import Lab, destroy
from portico.lab.pcap import Capture
from portico.lab.services import nginx
from portico.lab.topology import Switch, Topology, build, crowd_sources
from tests.lab.continuity import APP6_ADDRESS, SIZE, TUNNELS, settle
from tests.lab.helpers import SERVER_ADDRESS, echo_service
from tests.peers.crowd import Credentials, Crowd
from tests.peers.enrolment import enrol

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.lab)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="the lab needs root: run make test, or pytest through sudo"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        item.stash[_FAILED] = True
        module = item.getparent(pytest.Module)
        if module is not None:
            module.stash[_FAILED] = True
        if item.config.getoption("--pause-on-error") and sys.stdin.isatty():
            lab = next((value for value in item.funcargs.values() if isinstance(value, Lab)), None)  # type: ignore[attr-defined]
            name = lab.name if isinstance(lab, Lab) else "?"
            print(f"\n{item.nodeid} failed. The lab is {name}: portico lab console --name {name} client1")
            with contextlib.suppress(EOFError):
                input("Enter goes on. ")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """A failed scenario leaves hosts dead and settings half changed: nothing that it used is used again, so that its
    second try and the rest of its module begin with a lab of their own."""
    if item.stash.get(_FAILED, False):
        item.stash[_FAILED] = False
        item.session._setupstate.teardown_exact(None)


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Hosts, networks and intranet servers, without Portico."""
    with _lab(request) as lab:
        yield lab


@pytest.fixture(scope="module")
def three_servers(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Hosts of a lab of three servers without Portico; its switches prune by MAC, its routers are strict."""
    with _lab(request, build(3, 2, switch=Switch.PRUNING, strict_router=True)) as lab:
        yield lab


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A whole deployment with a connected client."""
    with _lab(request) as lab:
        deployment.deploy(lab, lambda _text: contextlib.nullcontext())
        yield lab


@pytest.fixture(scope="module")
def two_servers(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two servers that balance, without a client."""
    with _lab(request, build(2, 1)) as lab:
        deployment.install_servers(lab, lambda _text: contextlib.nullcontext())
        yield lab


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A deployment of three servers that balance, with a connected client."""
    with _lab(request, build(3, 1, switch=Switch.PRUNING)) as lab:
        deployment.deploy(lab, lambda _text: contextlib.nullcontext())
        yield lab


@pytest.fixture(scope="module")
def people(cluster: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Two hundred clients, each from an address of its own; half of them idle."""
    token = deployment.enrolment_token(cluster.host("da1"), "crowd")
    directory = tmp_path_factory.mktemp("crowd")
    with cluster.host("crowd").network():
        identity = enrol(SERVER_ADDRESS, token, directory)
    credentials = Credentials(identity.trust, identity.certificate, identity.key)
    with (
        echo_service(cluster.host("app6"), APP6_ADDRESS),
        Crowd(
            cluster.state.netns("crowd"),
            directory,
            [f"{SERVER_ADDRESS}:443"],
            credentials,
            APP6_ADDRESS,
            sources=crowd_sources(TUNNELS),
            reconnect="at_once",
            retry_seconds=0.2,
            attempt_seconds=5.0,
            resume=True,
        ) as crowd,
    ):
        crowd.connect(TUNNELS)
        crowd.wait(TUNNELS)
        yield crowd


@pytest.fixture
def crowd(cluster: Lab, people: Crowd) -> Crowd:
    """The clients, all connected, to servers that have converged."""
    settle(cluster, people)
    return people


@pytest.fixture(scope="module")
def checksum(cluster: Lab) -> str:
    return nginx.put_large_file(cluster.host("app6"), SIZE)


@pytest.fixture
def client(lab: Lab) -> Host:
    return lab.host("client1")


@pytest.fixture
def server(lab: Lab) -> Host:
    return lab.host("da1")


@pytest.fixture
def mgmt(lab: Lab) -> Host:
    return lab.host("mgmt")


@pytest.fixture
def capture(tmp_path: Path) -> Callable[[Host, str], AbstractContextManager[Capture]]:
    """`with capture(host, "eth0") as recording:` records into a file of this test."""

    def start(host: Host, interface: str) -> AbstractContextManager[Capture]:
        return Capture(host, interface, tmp_path / f"{host.name}-{interface}.pcap")

    return start


@contextmanager
def _lab(request: pytest.FixtureRequest, topology: Topology | None = None) -> Iterator[Lab]:
    name = f"test-{secrets.token_hex(4)}"
    config = request.config
    kept = Path(config.getoption("--lab-logs")) / request.node.name.removesuffix(".py").replace("/", "-")
    try:
        lab = Lab.create(name, topology)
        with ExitStack() as recordings:
            if config.getoption("--pcap"):
                _record_everything(lab, kept, recordings)
            yield lab
    except BaseException:
        request.node.stash[_FAILED] = True
        raise
    finally:
        if request.node.stash.get(_FAILED, False):
            _keep_logs(name, kept)
            print(f"Logs of the lab's hosts are in {kept}", file=sys.stderr)
        if config.getoption("--keep-lab"):
            print(f"The lab {name} is left running: portico lab down --name {name}", file=sys.stderr)
        else:
            destroy(name)


def _record_everything(lab: Lab, into: Path, recordings: ExitStack) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for computer in lab.topology.hosts:
        for card in computer.interfaces:
            path = into / f"{computer.name}-{card.name}.pcap"
            recordings.enter_context(Capture(lab.host(computer.name), card.name, path))


def _keep_logs(name: str, into: Path) -> None:
    from portico.lab.state import DISKS

    for host in sorted((DISKS / name).glob("*")) if (DISKS / name).is_dir() else []:
        logs = host / "var/log"
        if logs.is_dir():
            shutil.copytree(logs, into / host.name, dirs_exist_ok=True, symlinks=True, ignore_dangling_symlinks=True)
