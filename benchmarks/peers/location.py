"""How long a client takes to know where it is and to be connected, each time that it is carried elsewhere.

A whole lab with a server, a client that asks the network location server and goes through all checks, and networks of
which one is the office, one a home behind a NAT, and one that lets nobody out before they have logged in. A time counts
from the moment at which the network is up as DHCP would leave it (link, address, route, resolver) to the one at which
the client says the right thing. The slowest move of a turn is its figure: a client that is slow now and then is slow.
"""

from __future__ import annotations

import time

from benchmarks.deployment import deployed
from benchmarks.loads import Figures
from benchmarks.network import Network
from portico.errors import PorticoError
from portico.lab.lab import Lab
from tests.lab import moving

TOURS = 3

OFFICE = ("ConnectedLocally", "None")
HOME = ("ConnectedRemotely", "None")
NOWHERE = ("ActionableError", "InternetConnectivityDown")

FIGURES = frozenset({"inside_s", "connected_s", "lost_s", "astray_s"})


def location(net: Network, wanted: frozenset[str], seconds: float) -> Figures:
    """Tours from home to the office, home, without a network, to a captive portal, to the office and home again.

    Raises:
        RuntimeError: the client did not come to say the right thing.
    """
    times: dict[str, list[float]] = {name: [] for name in FIGURES}
    try:
        with deployed(f"bench-{net.run}", net.directory) as deployment:
            _say_when(deployment.lab, 0.0, HOME)
            for _ in range(TOURS):
                _tour(deployment.lab, times)
    except PorticoError as error:
        raise RuntimeError(str(error)) from error
    return {name: max(values) for name, values in times.items()}


def _tour(lab: Lab, times: dict[str, list[float]]) -> None:
    times["inside_s"].append(_say_when(lab, moving.to_office(lab), OFFICE))
    times["connected_s"].append(_say_when(lab, moving.to_home(lab), HOME))
    cut = time.time()
    lab.cut("client1", "eth0")
    times["lost_s"].append(_say_when(lab, cut, NOWHERE))
    with moving.captive_portal(lab):
        times["astray_s"].append(_astray(lab, moving.to_home(lab)))
        times["inside_s"].append(_say_when(lab, moving.to_office(lab), OFFICE))
    times["connected_s"].append(_say_when(lab, moving.to_home(lab), HOME))


def _say_when(lab: Lab, moved: float, said: tuple[str, str]) -> float:
    """Seconds until the client says so."""
    found = moving.told(lab.host("client1"), " ".join(said), moving.says(*said))
    return moving.since(found) - moved


def _astray(lab: Lab, moved: float) -> float:
    """Seconds until the captive portal is noticed: until then the client says of this network what it said of none."""
    noticed = moving.told(
        lab.host("client1"),
        "the captive portal to be noticed",
        lambda found: moving.says(*NOWHERE)(found) and moving.check(found, moving.NLS)["state"] == "failed",
    )
    return moving.since(noticed) - moved
