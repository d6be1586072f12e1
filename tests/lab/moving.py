"""A remote computer that is carried about, and what its assistant says of it. For scenarios and for measurements."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from portico.lab import links, wait
from portico.lab.deployment import CLIENT
from portico.lab.hosts import CODE, PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.topology import CORP_DNS, PUBLIC_DNS
from portico.paths import client_socket

HOME, HOME_ROUTER = "192.168.1.10/24", "192.168.1.1"
OFFICE = "10.0.0.70/24"
NLS = "network location server"
VPN_FAR = "10.99.0.1"
"""The other end of a VPN that leads to a host."""


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


def portal(host: Host, address: str, *ports: str) -> None:
    host.start_service("portal", [PYTHON, f"{CODE}/tests/peers/portal.py", address, *ports])
    wait.until(
        "the portal",
        lambda: host.output("ss", "-Hltn", f"src {address} and sport = :{ports[0] if ports else 443}"),
        evidence=lambda: host.log_tail("portal"),
    )


@contextmanager
def captive_portal(lab: Lab) -> Iterator[Host]:
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


@contextmanager
def asleep(client: Host) -> Iterator[None]:
    """The client's processes stand still during the block, and what happens meanwhile waits for them."""
    stop, go = f"-{int(signal.SIGSTOP)}", f"-{int(signal.SIGCONT)}"
    waiting, stopped = [str(client.service(CLIENT)["pid"])], list[str]()
    while waiting:
        process = waiting.pop()
        # From the agent down: who stands still starts nobody, and only a child may end meanwhile.
        if client.run("kill", stop, process, check=not stopped).returncode == 0:
            stopped.append(process)
            waiting += client.run("pgrep", "-P", process, check=False).stdout.split()
    try:
        yield
    finally:
        client.run("kill", go, *stopped)


@contextmanager
def vpn(lab: Lab, to: str, address: str, *routes: str) -> Iterator[None]:
    """Another way out of the client comes up under it, and is gone at once after the block, as when a program ends.

    Args:
        to: a host, which gets the other end of the cable; or a network of the switch.
        routes: of the client, as `ip route add` takes them.
    """
    network = to in lab.topology.networks
    there = links.SWITCH if network else to
    links.ip(lab.state, there, f"link add vpn-far type veth peer name vpn0 netns {lab.state.netns('client1')}")
    try:
        links.ip(lab.state, there, *([f"link set vpn-far master {to}"] if network else []), "link set vpn-far up")
        if not network:
            links.ip(lab.state, there, f"addr add {VPN_FAR}/24 dev vpn-far")
        links.ip(
            lab.state, "client1", "link set vpn0 up", f"addr add {address} dev vpn0",
            *(f"route add {route}" for route in routes),
        )  # fmt: skip
        yield
    finally:
        links.ip(lab.state, there, "link del vpn-far")
