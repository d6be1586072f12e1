"""What the gateway must reach, and what decides whether it does. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PLAIN = "plain"
OWN, OWN_NAT64 = "portico", "portico, NAT64"
STANDARD, STANDARD_NAT64 = "portico, standard peer", "portico, standard peer, NAT64"
FOREIGN = "portico, one packet per record"
WIREGUARD, SOFTETHER = "wireguard-go", "SoftEther"
OCSERV, OCSERV_DTLS = "ocserv + openconnect, TLS", "ocserv + openconnect, DTLS"
OPENVPN_TCP, OPENVPN_UDP = "OpenVPN, TCP", "OpenVPN, UDP"
NAT64_ALONE, TAYGA = "NAT64 alone", "TAYGA"
DNS64, UNBOUND = "DNS64", "Unbound, dns64"
LISTS = "lists of the API"
LOCATION = "client that moves"
SETTINGS, SETTINGS_ETCD = "settings: SQLite", "settings: etcd"
HANDSHAKES, IDLE = "set-up of tunnels", "idle tunnels"
REACTION = "a cluster in trouble"
FAST_FILTER, PORTABLE_FILTER = "filter: eBPF", "filter: nftables"

PEERS = (WIREGUARD, SOFTETHER, OCSERV, OCSERV_DTLS, OPENVPN_TCP, OPENVPN_UDP)


class Kind(Enum):
    """How a figure is judged: divided by what it is compared with, minus it, or as it is."""

    RATIO = "ratio"
    DIFFERENCE = "difference"
    VALUE = "value"


@dataclass(frozen=True)
class Row:
    """One demand.

    key: what selects it on the command line; several rows may share one.
    figures: names in FIGURES, one for each direction; the worse decides.
    beside: the subjects whose best is the measure; empty with Kind.VALUE.
    beside_figures: their names where they differ from `figures`.
    must, aim: limits, from below when `at_least`, otherwise from above; None where there is none.
    """

    key: str
    title: str
    subject: str
    figures: tuple[str, ...]
    beside: tuple[str, ...]
    kind: Kind
    must: float | None
    aim: float | None
    at_least: bool = True
    beside_figures: tuple[str, ...] = ()

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Each figure with the one it is compared with."""
        return tuple(zip(self.figures, self.beside_figures or self.figures, strict=True))


BULK, SMALL = ("up", "down"), ("small_up", "small_down")
LINE, LINE_PING = ("line_up", "line_down"), ("line_ping_up", "line_ping_down")

ROWS: tuple[Row, ...] = (
    Row("bulk", "bulk TCP, own client, to the fastest peer", OWN, BULK, PEERS, Kind.RATIO, 2.5, 5),
    Row("bulk", "bulk TCP, own client, to plain routing", OWN, BULK, (PLAIN,), Kind.RATIO, 0.22, 0.40),
    Row("standard", "bulk TCP, standard 1280-byte peer, to the fastest peer", STANDARD, BULK, PEERS, Kind.RATIO, 2, 4),
    Row("standard", "bulk TCP, standard peer, to plain routing", STANDARD, BULK, (PLAIN,), Kind.RATIO, None, 0.30),
    Row("record", "bulk TCP, one packet per record, to SoftEther", FOREIGN, BULK, (SOFTETHER,), Kind.RATIO, 1, 2),
    Row("nat64", "own client through NAT64, to without", OWN_NAT64, BULK, (OWN,), Kind.RATIO, 0.85, 0.95),
    Row("nat64", "standard peer through NAT64, to without", STANDARD_NAT64, BULK, (STANDARD,), Kind.RATIO, 0.85, 0.95),
    Row("nat64-alone", "bulk TCP, NAT64 alone, to TAYGA", NAT64_ALONE, BULK, (TAYGA,), Kind.RATIO, 10, 20),
    Row("small", "200-byte packets/s, to the best peer", OWN, SMALL, PEERS, Kind.RATIO, 1.3, 2),
    Row("small", "200-byte packets/s, to plain routing", OWN, SMALL, (PLAIN,), Kind.RATIO, None, 0.9),
    Row("ping", "ping added to plain routing, ms", OWN, ("ping",), (PLAIN,), Kind.DIFFERENCE, 0.3, 0.15, False),
    Row("line", "ping at a saturated line, own client, ms", OWN, LINE_PING, (), Kind.VALUE, 25, 10, False),
    Row("line", "bandwidth of that line, own client, to plain", OWN, LINE, (PLAIN,), Kind.RATIO, 0.90, None),
    Row("line", "ping at a saturated line, standard peer, ms", STANDARD, LINE_PING, (), Kind.VALUE, 25, 10, False),
    Row("line", "bandwidth of that line, standard peer, to plain", STANDARD, LINE, (PLAIN,), Kind.RATIO, 0.90, None),
    Row("cpu", "gateway CPU seconds per GB, to the best peer", OWN, ("cpu_per_gb",), PEERS, Kind.RATIO,
        1 / 3, 1 / 6, False),
    Row("handshakes", "full mutual TLS 1.3 handshakes per second and core, with TCP, to the TLS library's alone",
        HANDSHAKES, ("handshakes",), (HANDSHAKES,), Kind.RATIO, 0.70, None, beside_figures=("library_handshakes",)),
    Row("handshakes", "tunnels set up per second and core (with address and RA), to the TLS library's handshake alone",
        HANDSHAKES, ("tunnels",), (HANDSHAKES,), Kind.RATIO, None, 0.90,
        beside_figures=("library_handshakes",)),
    Row("memory", "memory per idle tunnel, KiB", IDLE, ("tunnel_kib",), (), Kind.VALUE, 16, 8, False),
    Row("dns64", "DNS64, synthesized answers from the cache on one core, to Unbound", DNS64,
        ("answers", "answers_per_core"), (UNBOUND,), Kind.RATIO, 0.5, 1.0),
    Row("lists", "list calls of the API with 50,000 clients in the directory, pages of 1,000, ms", LISTS,
        ("list_ms", "list_ms_95"), (), Kind.VALUE, 100, None, False),
    Row("location", "a client comes to the office: inside is known, s", LOCATION, ("inside_s",), (), Kind.VALUE,
        1, 0.5, False),
    Row("location", "a client comes home: connected, every check passed, s", LOCATION, ("connected_s",), (), Kind.VALUE,
        1, 0.5, False),
    Row("location", "the network goes, or leads to a page to log in to: known, s", LOCATION, ("lost_s", "astray_s"),
        (), Kind.VALUE, 2, 1, False),
)  # fmt: skip
ROWS += tuple(
    Row("filter", f"{filter_}, {what}", filter_, (own,), (filter_,), Kind.RATIO, must, None, beside_figures=(beside,))
    for filter_, limit in ((FAST_FILTER, 0.97), (PORTABLE_FILTER, 0.90))
    for what, own, beside, must in (
        ("bulk TCP to a VIP, to no filter", "filtered", "unfiltered", limit),
        ("64-byte packets/s to a VIP, to no filter", "filtered_small", "unfiltered_small", limit),
        ("64-byte packets/s, of 8 servers to one of 2", "small_of_8", "small_of_2", 0.97),
        ("64-byte packets/s, of 32 servers to one of 2", "small_of_32", "small_of_2", 0.97),
    )
)
ROWS += tuple(
    Row("settings", f"{what} of 32 servers with 1,000 revisions, {subject}, s", subject, (figure,), (), Kind.VALUE,
        must, None, False)
    for subject in (SETTINGS, SETTINGS_ETCD)
    for what, figure, must in (
        ("a change in force on each", "change_s", 2),
        ("the start of one", "start_s", 3),
    )
)  # fmt: skip
ROWS += tuple(
    Row("reaction", f"{what}: 99 of 100 of a server's clients are back after, ms", REACTION, (figure,), (), Kind.VALUE,
        1000, None, False)
    for what, figure in (
        ("power cut", "back_power"),
        ("killed gateway", "back_gateway"),
        ("killed agent", "back_agent"),
        ("frozen server", "back_frozen"),
        ("cut external cable", "back_cut_out"),
        ("cut internal cable", "back_cut_in"),
    )
)  # fmt: skip
ROWS += (
    Row("reaction", "a deaf server is found and its buckets are given away after, s", REACTION, ("deaf_s",), (),
        Kind.VALUE, 2, None, False),
)  # fmt: skip
KEYS = tuple(dict.fromkeys(row.key for row in ROWS))


def selected(keys: list[str]) -> tuple[Row, ...]:
    """The rows of these keys; all when there are none.

    Raises:
        ValueError: a key that no row has.
    """
    unknown = [key for key in keys if key not in KEYS]
    if unknown:
        raise ValueError(f"no row is called {', '.join(unknown)}: there are {', '.join(KEYS)}")
    return tuple(row for row in ROWS if not keys or row.key in keys)


def needed(rows: tuple[Row, ...]) -> dict[str, set[str]]:
    """The figures that these rows need of each subject."""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(row.subject, set()).update(row.figures)
        for subject in row.beside:
            wanted.setdefault(subject, set()).update(row.beside_figures or row.figures)
    return wanted
