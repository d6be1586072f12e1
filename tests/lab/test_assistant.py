"""A client knows where it is and whether the intranet works for it, through every move and every fault."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from portico.client.assistant.core import PATIENCE
from portico.lab import wait
from portico.lab.deployment import CLIENT
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.services import bind
from portico.lab.topology import CORP_DNS, CORP_DOMAIN, PUBLIC_DNS
from tests.lab.helpers import APP4, APP6, reaches, slow_answers
from tests.lab.moving import (
    NLS,
    VPN_FAR,
    asleep,
    captive_portal,
    check,
    portal,
    redial,
    report,
    says,
    since,
    to_home,
    to_office,
    told,
    vpn,
)

ELSEWHERE = "10.0.0.9"
"""A host of the intranet whose DNS leads astray."""
CORP = f"directaccess-corpConnectivityHost.{CORP_DOMAIN}"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
DESKTOP = """
import socket
with socket.socket(socket.AF_UNIX) as feed:
    feed.connect("/run/portico/client-status/status.sock")
    for line in feed.makefile():
        print(line, end="", flush=True)
"""


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


@pytest.fixture
def captive(lab: Lab) -> Iterator[Host]:
    with captive_portal(lab) as router:
        yield router


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
    down = says("ActionableError", "InternetConnectivityDown")
    lost = told(client, "no network", lambda found: down(found) and found["place"] == "unknown")
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


def carried(found: dict[str, Any]) -> bool:
    """Connected from outside, and nothing is in doubt any more."""
    return found["place"] == "outside" and says("ConnectedRemotely")(found)


def reached(client: Host) -> None:
    wait.until("the intranet to be reached", lambda: reaches(client, seconds=10.0), timeout=30.0)


def test_slow_corporate_dns_is_waited_for_inside_and_outside(lab: Lab, home: Host, server: Host) -> None:
    with slow_answers(lab.host("dns"), CORP_DNS):
        server.run("portico", "dns64", "flush", CORP_DOMAIN, "--tree", "--yes")
        to_office(lab)
        told(home, "the client to find itself inside", says("ConnectedLocally"))
        to_home(lab)
        found = told(home, "the client to be connected from home", carried)
        assert check(found, "corpConnectivityHost")["state"] == check(found, "web probe")["state"] == "passed"
        reached(home)


@pytest.fixture
def share(lab: Lab) -> Iterator[str]:
    """A share of a Samba server that has IPv4 only; the host and the share of a path."""
    host = lab.host("app4")
    directories = (
        "private dir",
        "lock directory",
        "state directory",
        "cache directory",
        "pid directory",
        "ncalrpc dir",
    )
    host.write("/var/lib/probes/probe.txt", "here\n")
    host.write(
        "/etc/samba/smb.conf",
        "[global]\nserver role = standalone server\nmap to guest = Bad User\nguest account = nobody\n"
        "smb ports = 445\nload printers = no\ndisable spoolss = yes\nlog file = /var/log/smbd.samba\n"
        + "".join(f"{name} = /run/smbd\n" for name in directories)
        + "[probes]\npath = /var/lib/probes\nguest ok = yes\nread only = yes\n",
    )
    host.run("mkdir", "-p", "/run/smbd")
    host.start_service("smbd", ["smbd", "--foreground", "--no-process-group", "--debug-stdout"])
    try:
        wait.until(
            "the share", lambda: host.output("ss", "-Hltn", "sport = :445"), evidence=lambda: host.log_tail("smbd")
        )
        yield rf"\\{APP4}\probes"
    finally:
        host.stop_service("smbd")


@pytest.fixture
def probing(home: Host, server: Host) -> Iterator[Callable[..., None]]:
    """Has the client probe these; none afterwards."""

    def probe(*probes: str) -> None:
        server.run("portico", "settings", "set", f"connectivity_assistant.probes={json.dumps(probes)}", "--yes",
                   timeout=60.0)  # fmt: skip
        redial(home)

    yield probe
    probe()
    told(home, "the client to be connected again", says("ConnectedRemotely"))


def passes(*probes: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a report says so of all these probes."""
    wanted = {(f"probe {probe}", "passed") for probe in probes}
    return lambda found: wanted <= {(entry["name"], entry["state"]) for entry in found["checks"]}


def test_of_the_probes_of_a_page_and_of_a_host_the_one_that_fails_is_named(
    lab: Lab, home: Host, probing: Callable[..., None]
) -> None:
    page, native, host = f"HTTP:http://{APP4}/", f"HTTP:http://{APP6}/", f"PING:{APP6}"
    probing(page, native, host)
    found = told(home, "all probes to succeed", passes(page, native, host))
    assert (found["status"], found["substatus"]) == ("ConnectedRemotely", "None")
    app6 = lab.host("app6")
    app6.run("sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all=1")
    try:
        redial(home)
        found = told(home, "the ping to be missed", says("Error", "RemoteNetworkAuthenticationFailure"))
        assert check(found, f"probe {host}")["state"] == "failed"
        assert passes(page, native)(found) and reaches(home), "nothing else breaks"
    finally:
        app6.run("sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all=0")
    redial(home)
    told(home, "all probes to succeed again", passes(page, native, host))
    missing = f"HTTP:http://{APP4}/missing.html"
    probing(page, missing)
    found = told(home, "the page to be missed", says("Error", "RemoteNetworkAuthenticationFailure"))
    assert passes(page)(found)
    assert "404" in check(found, f"probe {missing}")["detail"]


def test_a_probe_of_a_file_looks_whether_it_is_on_its_share(
    home: Host, probing: Callable[..., None], share: str
) -> None:
    there, missing = (f"FILE:{share}\\{name}" for name in ("probe.txt", "missing.txt"))
    probing(there)
    found = told(home, "the file to be found", passes(there))
    assert (found["status"], found["substatus"]) == ("ConnectedRemotely", "None")
    probing(there, missing)
    found = told(home, "the file to be missed", says("Error", "RemoteNetworkAuthenticationFailure"))
    assert passes(there)(found)
    assert check(found, f"probe {missing}")["state"] == "failed"
    assert "NT_STATUS_NO_SUCH_FILE" in check(found, f"probe {missing}")["detail"]
    assert reaches(home), "nothing else breaks"


@pytest.fixture
def desktop(home: Host) -> Iterator[Host]:
    """A program of a user without privileges that reads the status socket."""
    home.start_service("desktop", [*NOBODY, PYTHON, "-c", DESKTOP])
    yield home
    home.stop_service("desktop")


def heard(desktop: Host) -> list[dict[str, Any]]:
    """Every line that the status socket has said so far."""
    lines = desktop.log("desktop").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def test_a_vpn_comes_and_goes_under_the_client(lab: Lab, desktop: Host) -> None:
    # One to elsewhere takes all traffic: the tunnel goes on through it, and nothing makes this look like inside.
    before, changed = len(heard(desktop)), time.time()
    with vpn(lab, "nat1", "10.99.0.2/24", f"0.0.0.0/1 via {VPN_FAR}", f"128.0.0.0/1 via {VPN_FAR}"):
        told(
            desktop,
            "the client to be connected through the VPN",
            lambda found: carried(found) and since(found) > changed and "vpn0" in found["network"],
        )
        reached(desktop)
    told(
        desktop,
        "the client to be connected without the VPN",
        lambda found: carried(found) and "vpn0" not in found["network"],
    )
    reached(desktop)
    assert "inside" not in {line["place"] for line in heard(desktop)[before:]}

    # One into the intranet is the intranet, as long as it lasts.
    with vpn(lab, "corp", "10.0.0.71/24"):
        desktop.write("/etc/resolv.conf", f"nameserver {CORP_DNS}\n")
        told(desktop, "the client to find itself inside", says("ConnectedLocally"))
    desktop.write("/etc/resolv.conf", f"nameserver {PUBLIC_DNS}\n")
    told(desktop, "the client to be connected again", carried)
    reached(desktop)


def test_a_computer_carried_elsewhere_in_its_sleep_wakes_to_the_right_state(lab: Lab, desktop: Host) -> None:
    to_office(lab)
    told(desktop, "the client to find itself inside", says("ConnectedLocally"))
    wait.until("the desktop to hear of it", lambda: [line["place"] for line in heard(desktop)][-1:] == ["inside"])
    # Asked in the office, and the answer waits for it when it wakes at home, where all its timers have run out.
    redial(desktop)
    with asleep(desktop):
        over = to_home(lab) + PATIENCE + 1.0
        wait.until("the timers to have run out", lambda: time.time() > over)
        before = len(heard(desktop))
        woke = time.time()
    at_home = told(desktop, "the client to be connected from home", says("ConnectedRemotely"))
    print(f"connected {since(at_home) - woke:.2f} s after waking")
    assert "inside" not in {line["place"] for line in heard(desktop)[before:]}
    reached(desktop)

    with asleep(desktop):
        to_office(lab)
        woke = time.time()
    inside = told(desktop, "the client to find itself inside", says("ConnectedLocally"))
    print(f"inside was known {since(inside) - woke:.2f} s after waking")


def test_users_desktops_and_support_are_told_the_same_and_no_secret(desktop: Host) -> None:
    def tells(word: str) -> None:
        wait.until(
            f"the desktop to be told: {word}",
            lambda: bool(heard(desktop)) and heard(desktop)[-1]["word"] == word,
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
