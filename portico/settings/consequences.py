"""What a change would do to those who are there now: functions over two documents and what is alive. Pure.

`portico.settings.diff` says what a setting does by itself; here it is counted whom it hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from portico.settings.diff import Consequence, Difference
from portico.settings.load_balancing import LoadBalancing
from portico.settings.localise import default_client_prefix, virtual_addresses
from portico.settings.model import Settings


@dataclass(frozen=True)
class Live:
    """What is alive on the servers, by server where it matters.

    Attributes:
        clients: tunnels.
        bindings: ports and echo identifiers that NAT64 holds.
        enrolled: remote computers with a valid certificate.
        silent: servers that did not answer; nothing is known of theirs.
    """

    clients: Mapping[str, int] = field(default_factory=dict)
    bindings: Mapping[str, int] = field(default_factory=dict)
    enrolled: int = 0
    silent: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "clients": dict(self.clients),
            "bindings": dict(self.bindings),
            "enrolled": self.enrolled,
            "silent": list(self.silent),
        }


@dataclass(frozen=True)
class Situation:
    """A change and what it meets. `difference` is that of the two documents."""

    before: Settings
    after: Settings
    difference: Difference
    live: Live

    def touches(self, *prefixes: str) -> bool:
        """Whether a setting at or below one of these paths differs."""
        return any(
            change.path == prefix or change.path.startswith((f"{prefix}.", f"{prefix}["))
            for change in self.difference.changes
            for prefix in prefixes
        )

    @property
    def everybody(self) -> set[str]:
        """All servers of which something is known."""
        return {*self.live.clients, *self.live.bindings}


Foreseeing = Callable[[Situation], Iterable[Consequence]]


def redialling(now: Situation) -> Iterator[Consequence]:
    """Tunnels that are closed."""
    hit = _redialling_servers(now)
    count = sum(now.live.clients.get(server, 0) for server in hit)
    if count:
        text = f"{_many(count, 'client')} will redial{_shares(now.live.clients, hit)}"
        yield Consequence("", text, disconnects=True)


def enrolling(now: Situation) -> Iterator[Consequence]:
    """Computers that need a new token."""
    dialled = "deployment.connect_to" if now.touches("deployment.connect_to") else "ip_https.port"
    connected = sum(now.live.clients.values())
    if now.touches("deployment.connect_to", "ip_https.port"):
        if now.live.enrolled:
            text = (
                f"{_many(now.live.enrolled, 'enrolled client')} must enrol again: {_they(now.live.enrolled)} what was"
            )
            yield Consequence(dialled, f"{text} before")
    elif now.touches("certificates.mode"):
        count = now.live.enrolled if now.after.certificates.mode == "imported" else connected
        if count:
            issuer = "the built-in CA" if now.after.certificates.mode == "imported" else "another CA"
            holds = "their certificates are of" if count > 1 else "its certificate is of"
            yield Consequence("certificates.mode", f"{_many(count, 'client')} must enrol again: {holds} {issuer}")


def moving(now: Situation) -> Iterator[Consequence]:
    """Virtual addresses that are somewhere else, or are reached in another way."""
    was, then = now.before.load_balancing, now.after.load_balancing
    if was is None and then is not None:
        vips = _list(virtual_addresses(now.after))
        yield Consequence("load_balancing", f"the VIPs {vips} move from {now.before.server.name} alone to all servers")
    elif was is not None and then is None:
        vips = _list(virtual_addresses(now.before))
        yield Consequence("load_balancing", f"the VIPs {vips} move to {now.after.server.name} alone")
    elif was is not None and then is not None:
        path = "load_balancing.servers"
        former, host = _default_host(was), _default_host(then)
        if former != host and former is not None:
            vips = _list(virtual_addresses(now.before))
            where = (
                f"move from {former} to {host}" if host is not None else f"are on no server any more, {former} had them"
            )
            yield Consequence(path, f"the VIPs {vips} {where} for what no port rule covers")
        gone = {vip.ip for vip in was.virtual_addresses} - {vip.ip for vip in then.virtual_addresses}
        if gone:
            lost = f"nobody answers for {_list(sorted(gone, key=str))} any more"
            yield Consequence("load_balancing", lost, disconnects=True)


def binding(now: Situation) -> Iterator[Consequence]:
    """Bindings of NAT64 that are lost, and with them connections."""
    hit = _bound_servers(now)
    count = sum(now.live.bindings.get(server, 0) for server in hit)
    if count:
        text = f"{_many(count, 'NAT64 binding')} {'are' if count > 1 else 'is'} lost{_shares(now.live.bindings, hit)}"
        yield Consequence("nat64", f"{text}; the connections through {'them' if count > 1 else 'it'} break")


def renumbering(now: Situation) -> Iterator[Consequence]:
    """Clients that get another address."""
    former, prefix = _client_prefix(now.before), _client_prefix(now.after)
    count = sum(now.live.clients.values())
    if count and former != prefix:
        got = "get new addresses" if count > 1 else "gets a new address"
        text = f"{_many(count, 'client')} {got}: {prefix} instead of {former}"
        yield Consequence("ip_https.client_prefix", f"{text}; connections inside the tunnels break")


def following_later(now: Situation) -> Iterator[Consequence]:
    """Servers that cannot be asked and cannot be told."""
    stay = now.after.load_balancing
    for server in now.live.silent:
        if stay is not None and stay.server(server) is not None:
            yield Consequence(
                "", f"{server} does not answer: it follows when it is back, and its clients are not counted"
            )


FORESEEING: tuple[Foreseeing, ...] = (redialling, enrolling, moving, binding, renumbering, following_later)


def foresee(before: Settings | None, after: Settings, difference: Difference, live: Live) -> list[Consequence]:
    """What the change would do now. Nothing when nothing was configured, or nothing differs."""
    if before is None or not difference.changes:
        return []
    now = Situation(before, after, difference, live)
    return [consequence for rule in FORESEEING for consequence in rule(now)]


def _redialling_servers(now: Situation) -> set[str]:
    general = [c for c in now.difference.consequences if c.disconnects and not c.path.startswith("load_balancing")]
    was, then = now.before.load_balancing, now.after.load_balancing
    if general:
        return now.everybody
    if was is None:
        return set()
    if then is None:
        return now.everybody - {now.after.server.name}
    if {vip.ip for vip in was.virtual_addresses} != {vip.ip for vip in then.virtual_addresses}:
        return now.everybody
    if was.client_addresses != then.client_addresses:
        # The /64 of number 0 is the one that all servers have when clients roam.
        return {name for name in now.everybody if (s := was.server(name)) is None or s.prefix_index != 0}
    return _leaving(was, then)


def _bound_servers(now: Situation) -> set[str]:
    was, then = now.before.load_balancing, now.after.load_balancing
    ended = now.before.nat64.state == "enabled" and now.after.nat64.state == "disabled"
    # Load balancing on or off: a dedicated address takes the place of the one that was translated to, or back.
    if ended or (was is None) != (then is None):
        return now.everybody
    if now.touches("nat64.ipv4_address_port_pool", "nat64.prefix", "nat64.prefix_mapping", "server.internal_ipv4"):
        return now.everybody
    if was is None or then is None:
        return set()
    moved = {
        server.name
        for server in then.servers
        if (former := was.server(server.name)) is not None
        and former.internal_dedicated_addresses != server.internal_dedicated_addresses
    }
    return _leaving(was, then) | moved


def _leaving(was: LoadBalancing, then: LoadBalancing) -> set[str]:
    """Servers that are taken out, stopped or suspended."""
    started = {server.name for server in then.servers if server.state == "started"}
    return {server.name for server in was.servers if server.state == "started" and server.name not in started}


def _default_host(balancing: LoadBalancing) -> str | None:
    started = [server for server in balancing.servers if server.state == "started"]
    return min(started, key=lambda server: server.priority).name if started else None


def _client_prefix(settings: Settings) -> Any:
    """What clients get addresses of: with load balancing the first /64 of the /59, unless it is of each server."""
    prefix = settings.ip_https.client_prefix or default_client_prefix(settings)
    return next(prefix.subnets(new_prefix=64)) if prefix is not None and prefix.prefixlen < 64 else prefix


def _shares(counts: Mapping[str, int], servers: set[str]) -> str:
    shares = [f"{server}: {counts[server]}" for server in sorted(servers) if counts.get(server)]
    return f" ({', '.join(shares)})" if len(shares) > 1 else f" (of {shares[0].split(':')[0]})" if shares else ""


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _they(count: int) -> str:
    return "they dial" if count != 1 else "it dials"


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
