"""A client knows where it is and whether the intranet works for it, through every move and every fault."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from portico.lab import links, wait
from portico.lab.deployment import CLIENT
from portico.lab.hosts import CODE, PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.services import bind
from portico.lab.topology import CORP_DNS, CORP_DOMAIN, PUBLIC_DNS
from portico.paths import client_socket
from tests.lab.helpers import APP4, reaches

HOME, HOME_ROUTER = "192.168.1.10/24", "192.168.1.1"
OFFICE = "10.0.0.70/24"
ELSEWHERE = "10.0.0.9"
"""A host of the intranet whose DNS leads astray."""
CORP = f"directaccess-corpConnectivityHost.{CORP_DOMAIN}"
NLS = "network location server"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
DESKTOP = """
import socket
with socket.socket(socket.AF_UNIX) as feed:
    feed.connect("/run/portico/client-status/status.sock")
    for line in feed.makefile():
        print(line, end="", flush=True)
"""


def ask(client: Host, method: str, what: str) -> dict[str, Any]:
    """The agent's answer on its socket: a command of ours takes seconds to start where the machine is busy."""
    url = f"http://client/v1/{what}"
    found: dict[str, Any] = client.json("curl", "-sS", "-X", method, "--unix-socket", str(client_socket()), url)
    return found


def report(client: Host) -> dict[str, Any]:
    return dict(ask(client, "GET", "status")["assistant"])


def redial(client: Host) -> None:
    ask(client, "POST", "redial")


def check(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(entry) for entry in found["checks"] if entry["name"] == name)


def told(client: Host, what: str, fits: Callable[[dict[str, Any]], bool], timeout: float = 60.0) -> dict[str, Any]:
    """The first report that fits."""
    latest: dict[str, Any] = {}

    def look() -> bool:
        latest.clear()
        latest.update(report(client))
        return fits(latest)

    wait.until(what, look, timeout=timeout, interval=0.05, evidence=lambda: f"{latest}\n{client.log_tail(CLIENT, 60)}")
    return latest


def says(status: str, substatus: str = "None") -> Callable[[dict[str, Any]], bool]:
    return lambda found: (found["status"], found["substatus"]) == (status, substatus)


def since(found: dict[str, Any]) -> float:
    """When it came to what it says, seconds since the epoch."""
    return datetime.fromisoformat(found["since"]).timestamp()


def move(lab: Lab, network: str, address: str, resolver: str, router: str = "") -> float:
    """Pulls the client's cable and plugs it in elsewhere, as DHCP there would set it up. Returns when that was done."""
    client = lab.host("client1")
    lab.cut("client1", "eth0")
    links.ip(lab.state, links.SWITCH, f"link set {links.port('client1', 'eth0')} master {network}")
    links.ip(lab.state, "client1", "addr flush dev eth0 scope global")
    lab.heal("client1", "eth0")
    client.write("/etc/resolv.conf", f"nameserver {resolver}\n")
    routes = [f"route add default via {router}"] if router else []
    links.ip(lab.state, "client1", f"addr add {address} dev eth0", *routes)
    return time.time()


def to_office(lab: Lab, resolver: str = CORP_DNS) -> float:
    return move(lab, "corp", OFFICE, resolver)


def to_home(lab: Lab, resolver: str = PUBLIC_DNS) -> float:
    return move(lab, "home1", HOME, resolver, HOME_ROUTER)


@pytest.fixture
def home(lab: Lab, client: Host) -> Host:
    """The client at home and connected, whatever the scenario before has left."""
    if report(client)["status"] != "ConnectedRemotely":
        to_home(lab)
        told(client, "the client to be connected from home", says("ConnectedRemotely"))
    return client


@pytest.fixture
def office(lab: Lab, client: Host) -> Host:
    """The client in the office."""
    if report(client)["place"] != "inside":
        to_office(lab)
        told(client, "the client to find itself inside", says("ConnectedLocally"))
    return client


def portal(host: Host, address: str, *ports: str) -> None:
    host.start_service("portal", [PYTHON, f"{CODE}/tests/peers/portal.py", address, *ports])
    wait.until(
        "the portal",
        lambda: host.output("ss", "-Hltn", f"src {address} and sport = :{ports[0] if ports else 443}"),
        evidence=lambda: host.log_tail("portal"),
    )


@pytest.fixture
def captive(lab: Lab) -> Iterator[Host]:
    """The home's router lets nobody out: names, and connections to wherever, lead to its own page."""
    nat = lab.host("nat1")
    portal(nat, HOME_ROUTER)
    nat.run(
        "nft",
        "-f",
        "-",
        input_text="""table ip captive {
            chain astray {
                type nat hook prerouting priority dstnat;
                iifname "eth1" udp dport 53 redirect
                iifname "eth1" tcp dport { 80, 443 } redirect
            }
        }""",
    )
    try:
        yield nat
    finally:
        nat.run("nft", "delete", "table", "ip", "captive")
        nat.stop_service("portal")


@pytest.fixture
def blocked(server: Host) -> Iterator[Callable[[int], None]]:
    """Refuses TCP connections to a port of the server's, as a firewall would."""

    def block(port: int) -> None:
        server.run(
            "nft",
            "-f",
            "-",
            input_text=f"""table inet blocked {{
                chain in {{
                    type filter hook input priority -300;
                    iifname != "eth0" tcp dport {port} reject with tcp reset
                }}
            }}""",
        )

    yield block
    server.run("nft", "delete", "table", "inet", "blocked", check=False)


def test_a_client_moves_from_office_to_home_to_no_network_to_a_captive_portal_and_to_the_office(
    lab: Lab, client: Host, captive_later: Callable[[], None]
) -> None:
    # At home everything is right, and the chain says so.
    at_home = told(client, "everything to be right at home", says("ConnectedRemotely"))
    assert (at_home["place"], at_home["technology"]) == ("outside", "IPHTTPS")
    states = {entry["name"]: entry["state"] for entry in at_home["checks"]}
    assert states == {
        "network": "passed",
        NLS: "passed",
        "Native IPv6": "skipped",
        "6to4": "skipped",
        "Teredo": "skipped",
        "IPHTTPS": "passed",
        "tunnel endpoints": "passed",
        "corpConnectivityHost": "passed",
        "web probe": "passed",
    }

    # The office: no tunnel, no rules for names.
    plugged = to_office(lab)
    inside = told(client, "the client to find itself inside", says("ConnectedLocally"))
    print(f"inside was known {since(inside) - plugged:.2f} s after the network was there")
    assert (inside["place"], inside["technology"]) == ("inside", "None")
    wait.until("the tunnel to be gone", lambda: "portico-iphttps" not in client.output("ip", "-br", "link"))
    assert client.output("curl", "-sf", "--max-time", "5", f"http://{APP4}/").endswith("sees you as 10.0.0.70")

    # Home.
    plugged = to_home(lab)
    at_home = told(client, "the client to be connected from home", says("ConnectedRemotely"))
    print(f"connected {since(at_home) - plugged:.2f} s after the network was there")
    assert reaches(client)

    # No network.
    lab.cut("client1", "eth0")
    lost = told(client, "no network", says("ActionableError", "InternetConnectivityDown"))
    assert lost["place"] == "unknown"
    assert (check(lost, "network")["state"], check(lost, "network")["who"]) == ("failed", "user")

    # A captive portal answers for everybody, and convinces nobody.
    captive_later()
    lab.heal("client1", "eth0")
    astray = told(
        client,
        "the captive portal to be noticed",
        lambda found: (
            says("ActionableError", "InternetConnectivityDown")(found) and check(found, NLS)["state"] == "failed"
        ),
    )
    assert astray["place"] == "outside"
    assert "certificate is refused" in check(astray, NLS)["detail"]
    assert check(astray, "network")["state"] == "passed"

    # The office again.
    to_office(lab)
    told(client, "the client to find itself inside again", says("ConnectedLocally"))


@pytest.fixture
def captive_later(lab: Lab, request: pytest.FixtureRequest) -> Callable[[], None]:
    return lambda: request.getfixturevalue("captive")


def test_a_location_server_that_is_down_inside_is_named_and_nothing_else_breaks(
    office: Host, blocked: Callable[[int], None], server: Host
) -> None:
    blocked(443)
    redial(office)
    found = told(office, "the location server's fault to be named", lambda found: found["place"] == "outside")
    fault = check(found, NLS)
    assert (fault["state"], fault["who"]) == ("failed", "administrator")
    assert "10.0.0.2" in fault["detail"]
    assert office.output("curl", "-sf", "--max-time", "5", "http://10.0.0.4/").endswith("sees you as 10.0.0.70")
    server.run("nft", "delete", "table", "inet", "blocked")
    redial(office)
    told(office, "the client to find itself inside again", says("ConnectedLocally"))


def test_a_location_server_with_a_wrong_certificate_proves_nothing(lab: Lab, office: Host, mgmt: Host) -> None:
    portal(mgmt, ELSEWHERE)
    try:
        office.write("/etc/resolv.conf", f"nameserver {ELSEWHERE}\n")
        found = told(office, "the wrong certificate to be named", lambda found: check(found, NLS)["state"] == "failed")
        assert found["place"] != "inside"
        assert "certificate is refused" in check(found, NLS)["detail"]
    finally:
        mgmt.stop_service("portal")


def test_a_corp_connectivity_host_that_is_missing_or_wrong_is_a_name_resolution_failure(
    lab: Lab, home: Host, server: Host
) -> None:
    dns = lab.host("dns")
    server.run("portico", "settings", "set", "corporate_dns.state=disabled", "--yes", timeout=60.0)
    try:
        for change, said in (
            (f"update add {CORP}. 0 AAAA fd00::1", "is fd00::1 and must be ::1"),
            ("", "no such name"),
        ):
            bind.update(dns, f"update delete {CORP}.", *([change] if change else []))
            server.run("portico", "dns64", "flush", CORP_DOMAIN, "--tree", "--yes")
            redial(home)
            found = told(
                home,
                f"corpConnectivityHost: {said}",
                lambda found, said=said: (  # type: ignore[misc]
                    says("Error", "NameResolutionFailure")(found)
                    and said in check(found, "corpConnectivityHost")["detail"]
                ),
            )
            assert check(found, "corpConnectivityHost")["who"] == "administrator"
            assert check(found, "web probe")["state"] == "passed"
            assert reaches(home), "nothing else breaks"
    finally:
        bind.update(dns, f"update delete {CORP}.", f"update add {CORP}. 60 AAAA ::1")
        server.run("portico", "settings", "set", "corporate_dns.state=enabled", "--yes", timeout=60.0)
        server.run("portico", "dns64", "flush", CORP_DOMAIN, "--tree", "--yes")
    told(home, "the client to be connected again", says("ConnectedRemotely"), timeout=90.0)


def test_a_web_probe_whose_port_is_blocked_leaves_the_client_connecting(
    home: Host, server: Host, blocked: Callable[[int], None]
) -> None:
    blocked(80)
    redial(home)
    found = told(home, "the web probe to be named", lambda found: check(found, "web probe")["state"] == "failed")
    assert (found["status"], found["substatus"]) == ("Connecting", "None")
    assert check(found, "web probe")["who"] == "administrator"
    assert reaches(home), "nothing else breaks"
    server.run("nft", "delete", "table", "inet", "blocked")
    told(home, "the client to be connected again", says("ConnectedRemotely"))


@pytest.fixture
def desktop(home: Host) -> Iterator[Host]:
    """A program of a user without privileges that reads the status socket."""
    home.start_service("desktop", [*NOBODY, PYTHON, "-c", DESKTOP])
    yield home
    home.stop_service("desktop")


def test_users_desktops_and_support_are_told_the_same_and_no_secret(desktop: Host) -> None:
    def read() -> list[dict[str, Any]]:
        lines = desktop.log("desktop").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def tells(word: str) -> None:
        wait.until(
            f"the desktop to be told: {word}",
            lambda: bool(read()) and read()[-1]["word"] == word,
            timeout=60.0,
            evidence=lambda: desktop.log_tail("desktop") + desktop.log_tail(CLIENT),
        )

    tells("working")
    asked = desktop.run(*NOBODY, "portico", "client", "status", "--check", "--json")
    found = json.loads(asked.stdout)
    assert (found["word"], found["assistant"]["technology"]) == ("working", "IPHTTPS")
    assert desktop.run(*NOBODY, "portico", "client", "collect", check=False).returncode == 5

    desktop.run("portico", "client", "disconnect")
    tells("off")
    desktop.run("portico", "client", "connect", "--wait", "60", timeout=90.0)
    tells("working")

    path = desktop.output("portico", "client", "collect", "--output", "/var/cache").strip()
    whole = gzip.decompress((desktop.disk / path.lstrip("/")).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        pieces = {entry.name.partition("/")[2]: archive.extractfile(entry) for entry in archive}
    content = {name: piece.read() for name, piece in pieces.items() if piece is not None}
    assert content["chain.txt"].startswith(b"working: ConnectedRemotely")
    assert b"portico-iphttps" in content["addresses.txt"]
    assert b"link=link_up" in content["agent-log.txt"]
    directory = desktop.disk / "var/lib/portico/client"
    key = [line for line in (directory / "identity.pem").read_bytes().split(b"-----")[2].split() if line]
    assert key
    for secret in (*key, (directory / "interface.secret").read_bytes(), b"PRIVATE KEY"):
        assert secret not in whole
