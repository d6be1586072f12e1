"""The table of questions: what is asked when, why, with which default, and where the answer goes in the document. Pure.

An answer is text. Lists have commas between their entries; `none` is the empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from typing import Any, Final

from portico.settings.addresses import AddressPlan
from portico.settings.facts import Facts, Interface

Answers = Mapping[str, str]
Data = dict[str, Any]

NOTHING: Final = "none"
_NOT_PUBLIC: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"))
)
"""RFC 1918, 6598, 3927."""
_UNIQUE_LOCAL: Final = IPv6Network("fc00::/7")


class Topology(StrEnum):
    EDGE = "edge"
    TWO_ADAPTERS = "two-adapters"
    SINGLE_ADAPTER = "single-adapter"


@dataclass(frozen=True)
class Detected:
    """What the machine says of itself: the source of defaults.

    Attributes:
        host_name: without the domain.
        default_interface: the interface of the IPv4 default route, where there is one.
        resolvers, search: of resolv.conf, without loopback addresses.
        organisation_prefix: a random unique local /48, made for this installation.
    """

    facts: Facts
    host_name: str
    organisation_prefix: str
    domain: str = ""
    default_interface: str | None = None
    resolvers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def interfaces(self) -> list[Interface]:
        """Those that can be used, the one with the default route first."""
        found = [item for item in (self.facts.interfaces or {}).values() if item.up and item.name != "lo"]
        return sorted(found, key=lambda item: item.name != self.default_interface)


@dataclass(frozen=True)
class Choice:
    value: str
    text: str


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        key: its name among the answers.
        text: what is asked, without a question mark at the end where a default follows.
        why: what it is for, and what to think of; shown before it.
        paths: settings that the answer is about; their problems are told here.
        write: puts the answer into the document's data.
        default: what Enter answers; empty: an answer is needed.
        asked: whether it is asked at all after the answers before it.
        choices: the answers that there are; none: any text.
        found: what was detected that helps to answer; empty: nothing.
    """

    key: str
    text: str
    why: str
    paths: tuple[str, ...]
    write: Callable[[Data, str, Answers], None]
    default: Callable[[Detected, Answers], str] = lambda _detected, _answers: ""
    asked: Callable[[Answers], bool] = lambda _answers: True
    choices: Callable[[Detected], tuple[Choice, ...]] = lambda _detected: ()
    found: Callable[[Detected, Answers], str] = lambda _detected, _answers: ""


def entries(text: str) -> list[str]:
    """The entries of a list."""
    if text.strip().lower() == NOTHING:
        return []
    return [part.strip() for part in text.split(",") if part.strip()]


def is_public(interface: Interface | None) -> bool:
    """Whether it has an IPv4 address that the Internet reaches, as far as the address says."""
    return interface is not None and any(not _inside(address) for address in interface.ipv4)


def _inside(address: IPv4Address) -> bool:
    return any(address in network for network in _NOT_PUBLIC)


def _nowhere(_data: Data, _value: str, _answers: Answers) -> None:
    """The answer only decides what is asked later."""


def _at(section: str, key: str) -> Callable[[Data, str, Answers], None]:
    def write(data: Data, value: str, _answers: Answers) -> None:
        data.setdefault(section, {})[key] = value

    return write


def _list_at(section: str, key: str) -> Callable[[Data, str, Answers], None]:
    def write(data: Data, value: str, _answers: Answers) -> None:
        data.setdefault(section, {})[key] = entries(value)

    return write


def _other_than(default: str, write: Callable[[Data, str, Answers], None]) -> Callable[[Data, str, Answers], None]:
    """Leaves the document's own default alone."""
    return lambda data, value, answers: None if value == default else write(data, value, answers)


# Topology and adapters


def _topologies(detected: Detected) -> tuple[Choice, ...]:
    many = len(detected.interfaces) > 1
    two = (
        Choice(Topology.EDGE, "Edge: one adapter has a public address, the other one is on the intranet"),
        Choice(Topology.TWO_ADAPTERS, "Behind an edge device, two adapters: one to the perimeter, one to the intranet"),
    )
    one = Choice(Topology.SINGLE_ADAPTER, "Behind an edge device, a single adapter")
    return (*two, one) if many else (one,)


def _topology(detected: Detected, _answers: Answers) -> str:
    if len(detected.interfaces) < 2:
        return Topology.SINGLE_ADAPTER
    return Topology.EDGE if any(map(is_public, detected.interfaces)) else Topology.TWO_ADAPTERS


def _adapters(detected: Detected) -> tuple[Choice, ...]:
    return tuple(Choice(item.name, _described(detected, item)) for item in detected.interfaces)


def _described(detected: Detected, interface: Interface) -> str:
    shown = [str(a) for a in interface.addresses if not a.ip.is_link_local] or ["no address"]
    return f"{interface.name}: {', '.join(shown)}" + (
        ", the default route" if interface.name == detected.default_interface else ""
    )


def _internet(detected: Detected, answers: Answers) -> str:
    public = [item.name for item in detected.interfaces if is_public(item)]
    names = [item.name for item in detected.interfaces]
    if answers.get("topology") == Topology.EDGE and public:
        return public[0]
    return names[0] if names else ""


def _internal(detected: Detected, answers: Answers) -> str:
    others = [item.name for item in detected.interfaces if item.name != answers.get("internet")]
    return others[0] if others else ""


def _write_internet(data: Data, value: str, answers: Answers) -> None:
    data.setdefault("server", {})["internet_interface"] = value
    if answers.get("topology") == Topology.SINGLE_ADAPTER:
        data["server"]["internal_interface"] = value


def _connect_to(detected: Detected, answers: Answers) -> str:
    interface = detected.facts.interface(answers.get("internet", ""))
    if answers.get("topology") == Topology.EDGE and interface is not None and is_public(interface):
        return next(str(address) for address in interface.ipv4 if not _inside(address))
    return ""


# Prefixes


def _networks(detected: Detected, answers: Answers, version: int) -> list[str]:
    """Networks of the internal adapter, link-local ones left out."""
    name = answers.get("internal") or answers.get("internet", "")
    interface = detected.facts.interface(name)
    found = [a for a in (interface.addresses if interface is not None else ()) if not a.ip.is_link_local]
    kind = IPv4Interface if version == 4 else IPv6Interface
    return [str(network) for network in dict.fromkeys(a.network for a in found if isinstance(a, kind))]


def _organisation(detected: Detected, answers: Answers) -> str:
    """The /48 of what the intranet has already, where that is a unique local one."""
    for text in _networks(detected, answers, 6):
        network = IPv6Network(text)
        if network.subnet_of(_UNIQUE_LOCAL) and network.prefixlen >= 48:
            return str(network.supernet(new_prefix=48))
    return detected.organisation_prefix


def _plan(answers: Answers) -> AddressPlan | None:
    try:
        network = ip_network(answers.get("organisation", ""), strict=False)
        return AddressPlan.of(network) if isinstance(network, IPv6Network) and network.prefixlen == 48 else None
    except ValueError:
        return None


def _intranet(detected: Detected, answers: Answers) -> str:
    found = _networks(detected, answers, 6)
    plan = _plan(answers)
    return ", ".join(found) or (str(plan.intranet) if plan is not None else "")


def _found_networks(detected: Detected, answers: Answers) -> str:
    found = [*_networks(detected, answers, 4), *_networks(detected, answers, 6)]
    return f"Networks at the adapter to the intranet: {', '.join(found) or 'none'}."


def _clients(_detected: Detected, answers: Answers) -> str:
    plan = _plan(answers)
    return str(plan.client) if plan is not None else ""


def _write_intranet(data: Data, value: str, answers: Answers) -> None:
    plan = _plan(answers)
    if plan is None or entries(value) != [str(plan.intranet)]:
        _list_at("addresses", "intranet_prefixes")(data, value, answers)


def _write_clients(data: Data, value: str, answers: Answers) -> None:
    plan = _plan(answers)
    if plan is None or value != str(plan.client):
        data.setdefault("ip_https", {})["client_prefix"] = value


# Names


def _write_ipv6_servers(data: Data, value: str, _answers: Answers) -> None:
    data.setdefault("dns64", {})["only_send_a_query"] = value != "yes"


def _ipv6_servers(detected: Detected, answers: Answers) -> str:
    return "yes" if _networks(detected, answers, 6) else "no"


def _write_location(data: Data, value: str, _answers: Answers) -> None:
    if value != "server":
        data.setdefault("network_location_server", {})["url"] = value


def _write_suffixes(data: Data, value: str, _answers: Answers) -> None:
    rules = [{"namespace": item if item.startswith(".") else f".{item}"} for item in entries(value)]
    if rules:
        data.setdefault("nrpt", {})["rules"] = rules


def _write_exemptions(data: Data, value: str, _answers: Answers) -> None:
    if entries(value):
        data.setdefault("nrpt", {})["exemptions"] = entries(value)


def _imported(answers: Answers) -> bool:
    return answers.get("certificate") == "imported"


def _own_location(answers: Answers) -> bool:
    return _imported(answers) and answers.get("location") == "server"


def _search(detected: Detected, answers: Answers) -> str:
    """Domains that this machine searches in, besides the intranet's."""
    domain = answers.get("domain", "").lower()
    others = [name.lower().strip(".") for name in detected.search]
    found = [
        f".{name}" for name in dict.fromkeys(others) if name and name != domain and not name.endswith(f".{domain}")
    ]
    return ", ".join(found) or NOTHING


_YES_NO = (Choice("yes", "yes"), Choice("no", "no"))

QUESTIONS: Final[tuple[Question, ...]] = (
    Question(
        "name",
        "Name of this server",
        "The other servers of a cluster and the administrators call it by this name.",
        ("server.name",),
        _at("server", "name"),
        lambda detected, _: detected.host_name,
    ),
    Question(
        "topology",
        "Topology",
        "Where this machine stands. All servers of a cluster stand alike.",
        (),
        _nowhere,
        _topology,
        choices=_topologies,
    ),
    Question(
        "internet",
        "Adapter that remote computers reach",
        "TCP 443 comes in here, from the Internet or from the device in front that forwards it.",
        ("server.internet_interface", "ip_https.port"),
        _write_internet,
        _internet,
        choices=_adapters,
    ),
    Question(
        "internal",
        "Adapter to the intranet",
        "Traffic of remote computers leaves here, and IPv4-only servers see its address (NAT64).",
        ("server.internal_interface", "server.internal_ipv4", "nat64"),
        _at("server", "internal_interface"),
        _internal,
        lambda answers: answers.get("topology") != Topology.SINGLE_ADAPTER,
        _adapters,
    ),
    Question(
        "connect_to",
        "Public name or address that remote computers dial (ConnectTo)",
        "It must be right on the Internet: an A record for this machine or for the device that forwards to it. A name "
        "can move later, an address cannot.",
        ("deployment.connect_to",),
        _at("deployment", "connect_to"),
        _connect_to,
    ),
    Question(
        "certificate",
        "Certificates",
        "By them remote computers know the server, and the server knows them.",
        (),
        _other_than("built-in", _at("certificates", "mode")),
        lambda *_: "built-in",
        choices=lambda _: (
            Choice("built-in", "Portico's own CA issues and renews them; nothing else is needed"),
            Choice("imported", "Files of your CA or a public one"),
        ),
    ),
    Question(
        "server_certificate",
        "File of the server's certificate",
        "PEM: the certificate for the ConnectTo name, then its chain. The service sees no file below /home and /root.",
        ("certificates.server_certificate",),
        _at("certificates", "server_certificate"),
        asked=_imported,
    ),
    Question(
        "server_key",
        "File of its private key",
        "PEM, not encrypted, which only root may read.",
        ("certificates.server_key",),
        _at("certificates", "server_key"),
        asked=_imported,
    ),
    Question(
        "client_ca",
        "Files of the CAs that issue certificates to remote computers (comma between them)",
        "PEM. Computers with a certificate of one of them may connect.",
        ("certificates.client_ca", "certificates"),
        _list_at("certificates", "client_ca"),
        asked=_imported,
    ),
    Question(
        "organisation",
        "IPv6 prefix of the organisation (/48)",
        "All prefixes are derived from it. It cannot be changed later without new addresses for everything. Enter "
        "takes the one that the intranet has, or a new random one.",
        ("deployment.organisation_prefix",),
        _at("deployment", "organisation_prefix"),
        _organisation,
    ),
    Question(
        "intranet",
        "IPv6 prefixes of the intranet (comma between them)",
        "Remote computers send what is for these prefixes through the tunnel. An intranet without IPv6 has none yet: "
        "the derived one is kept for it, and IPv4 servers are reached all the same.",
        ("addresses",),
        _write_intranet,
        _intranet,
        found=_found_networks,
    ),
    Question(
        "clients",
        "IPv6 prefix of the remote computers",
        "Their addresses on the intranet. The intranet's router needs a route for its /59 to this server.",
        ("ip_https.client_prefix", "ip_https"),
        _write_clients,
        _clients,
    ),
    Question(
        "domain",
        "DNS domain of the intranet",
        "Names in it are resolved and reached through the tunnel, all others as before.",
        ("deployment.domain",),
        _at("deployment", "domain"),
        lambda detected, _: detected.domain or next(iter(detected.search), ""),
    ),
    Question(
        "dns",
        "DNS servers of the intranet (comma between them)",
        "The server asks them for the names of the intranet.",
        ("dns64",),
        _list_at("dns64", "upstream_servers"),
        lambda detected, _: ", ".join(detected.resolvers),
    ),
    Question(
        "ipv6_servers",
        "Has the intranet servers with IPv6 addresses",
        "With no, names stand for IPv4 addresses alone, which NAT64 translates.",
        (),
        _write_ipv6_servers,
        _ipv6_servers,
        choices=lambda _: _YES_NO,
    ),
    Question(
        "suffixes",
        "Further DNS suffixes of the intranet for the NRPT (comma between them)",
        "As .branch.example.net: remote computers resolve names in them through the tunnel, too.",
        ("nrpt.rules",),
        _write_suffixes,
        _search,
    ),
    Question(
        "exemptions",
        "Names that remote computers resolve where they are (comma between them)",
        "Names within the intranet's domain that stand on the Internet too, as www.example.net. The ConnectTo name and "
        "the network location server are exempt by themselves.",
        ("nrpt.exemptions", "nrpt"),
        _write_exemptions,
        lambda *_: NOTHING,
    ),
    Question(
        "location",
        "Network location server: 'server' for this one, or the URL of a page on the intranet",
        "An HTTPS page that is reached from inside only: by it a remote computer knows that it is inside.",
        ("network_location_server",),
        _write_location,
        lambda *_: "server",
    ),
    Question(
        "location_certificate",
        "File of the network location server's certificate",
        "PEM. Its name is known on the intranet only, and is no server's name.",
        ("network_location_server.certificate",),
        _at("network_location_server", "certificate"),
        asked=_own_location,
    ),
    Question(
        "location_key",
        "File of its private key",
        "PEM, not encrypted, which only root may read.",
        ("network_location_server.key",),
        _at("network_location_server", "key"),
        asked=_own_location,
    ),
)
