"""What is seen of one server, as far as heuristics need it. Data only: whoever builds it does the looking.

None means "not looked at (yet)": heuristics then say Unknown where it matters, never OK. Times are seconds since the
epoch, ages and silences are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from portico.settings.model import Settings

Extra = TypeVar("Extra")


@dataclass(frozen=True)
class Trouble:
    """An error that the agent already has in words."""

    code: str
    what: str
    why: str = ""
    resolution: str = ""


@dataclass(frozen=True)
class Process:
    """A process that the agent keeps running.

    Attributes:
        wanted: whether the settings need it.
        state: that of its supervisor: running, starting, waiting, stopping, stopped.
        restarts_lately: in the last `LATELY` seconds.
    """

    name: str
    wanted: bool
    state: str
    reason: str = ""
    unit: str | None = None
    restarts_lately: int = 0


@dataclass(frozen=True)
class Volume:
    """A file system that state or logs are on."""

    path: str
    free_bytes: int
    total_bytes: int
    free_files: int
    total_files: int


@dataclass(frozen=True)
class Card:
    """A network interface of the settings.

    Attributes:
        side: internet or internal; a single interface is `internet`.
        carrier: whether its link is there; None where the driver does not say.
        errors_lately: damaged or lost frames (rx_errors, tx_errors) in the last `LATELY` seconds.
    """

    name: str
    side: str
    present: bool = True
    up: bool = True
    carrier: bool | None = True
    errors_lately: int = 0


@dataclass(frozen=True)
class Certificate:
    """A certificate in use.

    Attributes:
        name: the file, or what people call it.
        automatic: Portico renews it by itself.
        trouble: why it cannot be read; the times are 0 then.
        covers: whether it is for the ConnectTo address; None when that does not matter.
    """

    purpose: Literal["server", "authority", "client_ca"]
    name: str
    not_before: float = 0.0
    not_after: float = 0.0
    automatic: bool = False
    trouble: str = ""
    covers: bool | None = None


@dataclass(frozen=True)
class DnsServer:
    """A DNS server of the intranet, as asked by this machine itself.

    Attributes:
        suffix: the domain it is for; empty: everything else.
        answers: None before the first answer or silence.
        detail: the answer's code, or why there was none.
        seconds: the answer took, the quicker of two where the first was slow; None without one.
    """

    address: str
    suffix: str = ""
    answers: bool | None = None
    detail: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Counters:
    """The gateway's counters, by path (`dns64.servfail`), and what they grew by lately."""

    now: Mapping[str, float] = field(default_factory=dict)
    lately: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolver:
    """A DNS server as DNS64 sees it by the questions of clients."""

    suffix: str
    address: str
    resting: bool
    withholds_aaaa: bool = False


@dataclass(frozen=True)
class Member:
    """A server of the cluster as heartbeats show it to this one. `state` None: it is not heard."""

    name: str
    state: str | None
    conditions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Neighbour:
    """Another server as the peers' channel shows it.

    Attributes:
        clock_ahead: seconds by which its clock differs; None when not known.
    """

    name: str
    reachable: bool
    version: str | None = None
    revision: int | None = None
    clock_ahead: float | None = None


@dataclass(frozen=True)
class Cluster:
    """The cluster as this server sees it.

    Attributes:
        members: None when the balancer does not answer.
        converging_for: seconds since the servers last agreed who takes what; 0 while they do.
        channel_problem: why the peers' channel does not work here.
        balancer_problem: why this server's part in load balancing does not work.
        witness: name of the machine that votes beside two servers, empty without one.
        witness_silent: seconds since it was heard here; None while it is not to vote.
    """

    own: str
    members: tuple[Member, ...] | None
    neighbours: tuple[Neighbour, ...] = ()
    converging_for: float = 0.0
    quorum: bool = True
    channel_problem: str = ""
    balancer_problem: str = ""
    witness: str = ""
    witness_silent: float | None = None


@dataclass(frozen=True)
class Distribution:
    """How far the newest settings got on this server.

    Attributes:
        newest: the largest revision that this server or one that it reaches has; 0 without settings.
        stored, applied: the newest here, and the one in force here; 0: none.
        stage: of the newest here: distributed, retrieved, applied, failed.
        times: when it reached each stage.
        behind_for: seconds since this server first knew of a revision that it does not have.
        error: why it failed.
    """

    newest: int
    stored: int
    applied: int
    stage: str = ""
    times: Mapping[str, float] = field(default_factory=dict)
    behind_for: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Location:
    """What is wrong with the network location server (None: not looked at yet), with this server's pages, and with the
    deployment's records in the corporate DNS."""

    nls: tuple[Trouble, ...] | None
    pages: tuple[Trouble, ...] = ()
    records: tuple[Trouble, ...] = ()


@dataclass(frozen=True)
class Delivery:
    """A destination of alerts."""

    name: str
    waiting: int = 0
    failing_for: float = 0.0
    error: str = ""
    dropped_lately: int = 0


@dataclass(frozen=True)
class Observations:
    """Everything known about one server at `now`.

    Attributes:
        settings: in force, as this machine reads them; None: none.
        problem: why nothing, or not everything, is served.
        warnings: what parts of the agent say by themselves, by source.
        drifting: what differs from the settings in the kernel now and is not repaired, by name.
        repairs_lately: how often drift was repaired in the last `LATELY` seconds; `repaired` names the last.
        counters, resolvers: None while the gateway does not answer.
        nat64_addresses: how many IPv4 addresses NAT64 has.
        extras: what other features look at, by type; see `extra`.
    """

    now: float
    server: str
    version: str = ""
    settings: Settings | None = None
    problem: Trouble | None = None
    warnings: Mapping[str, Trouble] = field(default_factory=dict)
    read_only: str = ""
    drifting: tuple[str, ...] = ()
    repairs_lately: int = 0
    repaired: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    volumes: tuple[Volume, ...] | None = None
    cards: tuple[Card, ...] | None = None
    certificates: tuple[Certificate, ...] | None = None
    dns_servers: tuple[DnsServer, ...] | None = None
    counters: Counters | None = None
    resolvers: tuple[Resolver, ...] | None = None
    tunnels: int | None = None
    listening: bool | None = None
    dns64_listening: bool | None = None
    nat64_addresses: int | None = None
    cluster: Cluster | None = None
    distribution: Distribution | None = None
    location: Location | None = None
    deliveries: tuple[Delivery, ...] = ()
    extras: Mapping[type[Any], Any] = field(default_factory=dict)

    def extra(self, kind: type[Extra]) -> Extra | None:
        """The observation of that type; None when nobody looked (yet)."""
        found = self.extras.get(kind)
        return found if isinstance(found, kind) else None

    def process(self, name: str) -> Process | None:
        return next((process for process in self.processes if process.name == name), None)


LATELY = 600.0
"""Seconds that "lately" covers."""
