"""Which servers are asked for which name, in which order, for how long. No sockets, no clock, no random source.

The caller hands in queries, answers, failures and the time, and carries out the actions that come back. Every
exchange with a server is one *attempt*: the caller opens a new socket for it (a fresh source port chosen by the kernel,
connected to the server, so that only the server's answers arrive), and closes it when the core says so. Together with a
random identifier for each attempt and the question compared, this is what RFC 5452 asks for against forged answers.

Names in a rule with servers are *inside*: they are asked through the tunnel or not at all. With the tunnel down they
fail at once, with an extended error that says why; they are never shown to the outside resolvers, unless the settings
allow a fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, ip_address
from typing import Protocol

from portico.client.resolver.wire import (
    ExtendedError,
    Malformed,
    Query,
    ResponseCode,
    answers_query,
    failure,
    header_failure,
    identifier_of,
    is_truncated,
    parse_query,
    response_code,
    restore,
    with_identifier,
)


class Policy(Protocol):
    """The Name Resolution Policy Table."""

    def servers_for(self, name: str) -> Sequence[object] | None:
        """The addresses of the DNS servers for a name; None or empty for one that is not inside."""


class Fallback(StrEnum):
    """When a name inside is asked outside after all, after [MS-GPNRPT] 2.2.1.2.

    Windows falls back to LLMNR and NetBIOS; here the local names are those of the machine's own resolvers. Each value
    but NONE shows names of the intranet to the network the computer happens to be in.
    """

    NONE = "none"
    SECURE = "secure"
    """The name does not exist inside."""
    PRIVATE = "private"
    """Also when the servers inside are unreachable and the computer is in a private network."""
    UNSECURE = "unsecure"
    """Any error."""


@dataclass(frozen=True)
class Timing:
    """Seconds. A stub resolver asks again after 5 s, so everything is over before."""

    attempt: float = 1.5
    """For one server's answer; doubled in the second round."""
    total: float = 4.8
    hold: float = 2.0
    """How long a name inside waits for a tunnel that was up just now."""
    distrust: float = 30.0
    """How long a server that did not answer is asked last."""


@dataclass(frozen=True)
class Ask:
    """Send `data` to `server` over a new socket; `attempt` names the exchange."""

    attempt: int
    server: str
    data: bytes
    tcp: bool


@dataclass(frozen=True)
class Forget:
    """Close the socket of an attempt."""

    attempt: int


@dataclass(frozen=True)
class Answer:
    """Send `data` to whoever asked under `requester`."""

    requester: int
    data: bytes


@dataclass(frozen=True)
class Ignore:
    """What came in under `requester` deserves no answer."""

    requester: int


Action = Ask | Forget | Answer | Ignore


@dataclass
class Counters:
    """What the resolver did since it started."""

    queries: int = 0
    inside: int = 0
    outside: int = 0
    answered: int = 0
    failed: int = 0
    malformed: int = 0
    refused_full: int = 0
    forged: int = 0
    timeouts: int = 0
    fallbacks: int = 0


@dataclass
class _Pending:
    requester: int
    query: Query
    tcp: bool
    inside: bool
    servers: list[str]
    deadline: float
    attempts: int = 0
    attempt: int | None = None
    """None while it waits for the tunnel."""
    identifier: int = 0
    expires: float = 0.0
    last_failure: bytes | None = field(default=None, repr=False)
    tried_outside: bool = False


class Resolver:
    """The state of all queries under way.

    Args:
        policy: the rules.
        outside: the machine's own resolvers, in order.
        random: returns an unpredictable number in 0..n-1 for n.
        max_queries: under way at one time; one more is answered SERVFAIL.
        exempt: names that are never inside, whatever the rules say: finding the server must not need the tunnel.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        random: Callable[[int], int],
        outside: Sequence[str] = (),
        exempt: Sequence[str] = (),
        timing: Timing | None = None,
        fallback: Fallback = Fallback.NONE,
        max_queries: int = 1024,
    ) -> None:
        self.policy = policy
        self.outside: tuple[str, ...] = tuple(outside)
        self.exempt = frozenset(name.lower().removesuffix(".") for name in exempt)
        self.timing = timing or Timing()
        self.fallback = fallback
        self.private_network = False
        """Whether the computer is in a private network, for `Fallback.PRIVATE`."""
        self.counters = Counters()
        self.max_queries = max_queries
        self._random = random
        self._pending: dict[int, _Pending] = {}
        self._attempts: dict[int, int] = {}
        self._distrusted: dict[str, float] = {}
        self._next = 1
        self._tunnel = False
        self._down_since: float | None = None

    @property
    def tunnel(self) -> bool:
        """Whether servers inside can be reached."""
        return self._tunnel

    @property
    def under_way(self) -> int:
        """Queries that wait for an answer."""
        return len(self._pending)

    def query(self, data: bytes, requester: int, now: float, *, tcp: bool) -> list[Action]:
        """A query came in. `requester` is the caller's handle for the answer."""
        self.counters.queries += 1
        try:
            query = parse_query(data)
        except Malformed:
            self.counters.malformed += 1
            response = header_failure(data, ResponseCode.FORMERR)
            return [Ignore(requester) if response is None else Answer(requester, response)]
        if len(self._pending) >= self.max_queries:
            self.counters.refused_full += 1
            return [Answer(requester, failure(query, ResponseCode.SERVFAIL, ExtendedError.OTHER, "too many queries"))]
        servers, inside = self._servers(query.name)
        if inside:
            self.counters.inside += 1
        else:
            self.counters.outside += 1
        pending = _Pending(requester, query, tcp, inside, self._ordered(servers, now), now + self.timing.total)
        number = self._next
        self._next += 1
        self._pending[number] = pending
        if inside and not self._tunnel:
            if self._down_since is not None and now < self._down_since + self.timing.hold:
                pending.expires = self._down_since + self.timing.hold
                return []
            return self._unreachable(number, pending, now, "the tunnel to the intranet is down")
        return self._ask(number, pending, now)

    def answer(self, attempt: int, data: bytes, now: float) -> list[Action]:
        """A message arrived on the socket of an attempt."""
        number = self._attempts.get(attempt)
        if number is None:
            return []
        pending = self._pending[number]
        if not answers_query(data, pending.identifier, pending.query):
            # Something else on the way, or a forger: the true answer may still come.
            self.counters.forged += identifier_of(data) is not None
            return []
        self._distrusted.pop(pending.servers[pending.attempts - 1], None)
        code = response_code(data)
        if is_truncated(data) and pending.tcp:
            return self._next_attempt(number, pending, now)
        if code in (ResponseCode.SERVFAIL, ResponseCode.REFUSED, ResponseCode.NOTIMP):
            pending.last_failure = data
            return self._next_attempt(number, pending, now)
        if code == ResponseCode.NXDOMAIN and self._may_fall_back(pending, answered=True):
            return [*self._forget(pending), *self._ask_outside(number, pending, now)]
        self.counters.answered += 1
        return self._finish(number, restore(data, pending.query, udp=not pending.tcp))

    def failed(self, attempt: int, now: float) -> list[Action]:
        """The server of an attempt cannot be reached (refused, unreachable, connection closed)."""
        number = self._attempts.get(attempt)
        if number is None:
            return []
        pending = self._pending[number]
        self._distrust(pending, now)
        return self._next_attempt(number, pending, now)

    def set_tunnel(self, up: bool, now: float) -> list[Action]:
        """The tunnel came up or went down."""
        if up == self._tunnel:
            return []
        self._tunnel = up
        self._down_since = None if up else now
        actions: list[Action] = []
        for number, pending in list(self._pending.items()):
            if not pending.inside or pending.tried_outside:
                continue
            actions += self._forget(pending)
            if up:
                actions += self._ask(number, pending, now)
            else:
                pending.expires = now + self.timing.hold
                pending.attempts = 0
        return actions

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        return min((pending.expires for pending in self._pending.values()), default=None)

    def handle_timeout(self, now: float) -> list[Action]:
        """Gives up on what has waited too long."""
        actions: list[Action] = []
        for number, pending in [(n, p) for n, p in self._pending.items() if p.expires <= now]:
            if pending.attempt is None:
                actions += self._unreachable(number, pending, now, "the tunnel to the intranet is down")
                continue
            self.counters.timeouts += 1
            self._distrust(pending, now)
            actions += self._next_attempt(number, pending, now)
        return actions

    def _servers(self, name: str) -> tuple[Sequence[str], bool]:
        if name in self.exempt:
            return self.outside, False
        servers = self.policy.servers_for(name)
        return ([str(server) for server in servers], True) if servers else (self.outside, False)

    def _ordered(self, servers: Sequence[str], now: float) -> list[str]:
        """Two rounds over the servers, those that were silent lately last."""
        self._distrusted = {server: until for server, until in self._distrusted.items() if until > now}
        first = sorted(servers, key=lambda server: server in self._distrusted)
        return first * 2

    def _ask(self, number: int, pending: _Pending, now: float) -> list[Action]:
        if pending.attempts >= len(pending.servers) or now >= pending.deadline:
            return self._unreachable(number, pending, now, "none of the DNS servers answers")
        server = pending.servers[pending.attempts]
        second_round = pending.attempts >= len(pending.servers) // 2
        pending.attempts += 1
        pending.attempt = self._next
        self._next += 1
        pending.identifier = self._random(65_536)
        pending.expires = min(pending.deadline, now + self.timing.attempt * (2 if second_round else 1))
        self._attempts[pending.attempt] = number
        data = with_identifier(pending.query.data, pending.identifier)
        return [Ask(pending.attempt, server, data, pending.tcp)]

    def _next_attempt(self, number: int, pending: _Pending, now: float) -> list[Action]:
        return [*self._forget(pending), *self._ask(number, pending, now)]

    def _forget(self, pending: _Pending) -> list[Action]:
        if pending.attempt is None:
            return []
        attempt, pending.attempt = pending.attempt, None
        del self._attempts[attempt]
        return [Forget(attempt)]

    def _distrust(self, pending: _Pending, now: float) -> None:
        self._distrusted[pending.servers[pending.attempts - 1]] = now + self.timing.distrust

    def _may_fall_back(self, pending: _Pending, *, answered: bool) -> bool:
        if not pending.inside or pending.tried_outside or not self.outside:
            return False
        match self.fallback:
            case Fallback.NONE:
                return False
            case Fallback.SECURE:
                return answered
            case Fallback.PRIVATE:
                return answered or self.private_network
            case Fallback.UNSECURE:
                return True

    def _ask_outside(self, number: int, pending: _Pending, now: float) -> list[Action]:
        self.counters.fallbacks += 1
        pending.tried_outside = True
        pending.servers = self._ordered(self.outside, now)
        pending.attempts = 0
        pending.deadline = now + self.timing.total
        return self._ask(number, pending, now)

    def _unreachable(self, number: int, pending: _Pending, now: float, why: str) -> list[Action]:
        refused = pending.last_failure is not None
        if (not refused or self.fallback is Fallback.UNSECURE) and self._may_fall_back(pending, answered=False):
            return self._ask_outside(number, pending, now)
        self.counters.failed += 1
        if pending.last_failure is not None:
            return self._finish(number, restore(pending.last_failure, pending.query, udp=not pending.tcp))
        if not pending.servers:
            why = "this computer has no DNS server"
        extended = ExtendedError.NETWORK_ERROR if pending.attempts == 0 else ExtendedError.NO_REACHABLE_AUTHORITY
        return self._finish(number, failure(pending.query, ResponseCode.SERVFAIL, extended, why))

    def _finish(self, number: int, response: bytes) -> list[Action]:
        pending = self._pending.pop(number)
        return [*self._forget(pending), Answer(pending.requester, response)]


def is_private(address: str) -> bool:
    """Whether an address is of a private network (RFC 1918)."""
    found = ip_address(address)
    return isinstance(found, IPv4Address) and found.is_private and not found.is_loopback and not found.is_link_local
