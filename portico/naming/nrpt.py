"""The Name Resolution Policy Table: which names a client resolves through the tunnel ([MS-GPNRPT] 2.2.2). Pure.

A namespace with a leading dot is a suffix: `.corp.example.net` covers `corp.example.net` and every name below it.
Without the dot it is exactly one name. The longest match wins, an exact name before a suffix of the same length. A rule
without servers is an exemption: the name is resolved as if there were no table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

from portico.settings.addresses import Address
from portico.settings.effective import Effective
from portico.settings.located import nls_name
from portico.settings.model import Settings

Origin = Literal["settings", "domain", "connect-to", "network-location-server"]


@dataclass(frozen=True)
class Rule:
    """One row. `servers` empty means exemption; `origin` says who put it there."""

    namespace: str
    servers: tuple[Address, ...]
    origin: Origin = "settings"

    @property
    def exemption(self) -> bool:
        return not self.servers

    @property
    def suffix(self) -> bool:
        return self.namespace.startswith(".")

    def matches(self, name: str) -> bool:
        """Whether the rule covers a name in its normal form (see `normal_name`)."""
        if self.namespace == ".":
            return True
        if not self.suffix:
            return name == self.namespace
        return name == self.namespace[1:] or name.endswith(self.namespace)

    def as_dict(self) -> dict[str, Any]:
        """The form clients get: {namespace, dns_servers}."""
        return {"namespace": self.namespace, "dns_servers": [str(server) for server in self.servers]}


class Table:
    """Rules and the lookup among them. A lookup costs one dictionary access per label of the name."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Of two rules for one namespace the first counts."""
        self.rules: tuple[Rule, ...] = tuple({rule.namespace: rule for rule in reversed(list(rules))}.values())[::-1]
        self._by_namespace = {rule.namespace: rule for rule in self.rules}

    def rule_for(self, name: str, *, suffix: str = "") -> Rule | None:
        """The rule that decides about a name, None when no rule covers it.

        Args:
            suffix: the DNS suffix that is appended to a single label first.
        """
        name = normal_name(name)
        if name and "." not in name and suffix:
            name = f"{name}.{normal_name(suffix)}"
        if not name:
            return self._by_namespace.get(".")
        if (exact := self._by_namespace.get(name)) is not None:
            return exact
        rest = f".{name}"
        while rest:
            if (found := self._by_namespace.get(rest)) is not None:
                return found
            dot = rest.find(".", 1)
            rest = rest[dot:] if dot > 0 else ""
        return self._by_namespace.get(".")

    def servers_for(self, name: str, *, suffix: str = "") -> tuple[Address, ...] | None:
        """The DNS servers for a name; None when the client resolves it as without the table."""
        rule = self.rule_for(name, suffix=suffix)
        return rule.servers if rule is not None and rule.servers else None

    def as_list(self) -> list[dict[str, Any]]:
        return [rule.as_dict() for rule in self.rules]

    @classmethod
    def from_list(cls, rows: object) -> Table:
        """Reads what `as_list` wrote, on the client.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(rows, list) or len(rows) > 10_000:
            raise ValueError("the table is not a list of at most 10000 rules")
        rules = []
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("namespace"), str) or not row["namespace"]:
                raise ValueError("a rule has no namespace")
            servers = row.get("dns_servers")
            if not isinstance(servers, list) or not all(isinstance(server, str) for server in servers):
                raise ValueError(f"the rule for {row['namespace']} has no list of servers")
            namespace = row["namespace"]
            normal = normal_name(namespace)
            if namespace != "." and not normal.strip("."):
                raise ValueError(f"'{namespace}' is not a namespace")
            rules.append(Rule("." if namespace == "." else normal, tuple(ip_address(server) for server in servers)))
        return cls(rules)


def normal_name(name: str) -> str:
    """Lower case, without the final dot of a fully qualified name."""
    return name.strip().lower().removesuffix(".")


def table(settings: Settings, values: Effective) -> Table:
    """The clients' table: the rules and exemptions of the settings, and those that are made automatically.

    Automatic are the suffix rule for the deployment's domain, unless the settings have one for it; an exemption for the
    ConnectTo name where a rule would cover it: a client that asked for it through the tunnel could never open one; and
    an exemption for the network location server, which a client outside must not find.
    """
    default = (values.dns64_address,) if values.dns64_address is not None else _upstream_ipv6(settings)
    rules = [
        Rule(row.namespace, tuple(row.dns_servers) if row.dns_servers is not None else default)
        for row in settings.nrpt.rules
    ]
    rules += [Rule(namespace, ()) for namespace in settings.nrpt.exemptions]
    given = {rule.namespace for rule in rules}
    domain = f".{settings.deployment.domain}"
    if domain not in given and default:
        rules.append(Rule(domain, default, "domain"))
    connect_to = settings.deployment.connect_to
    if not _is_address(connect_to):
        found = Table(rules).rule_for(connect_to)
        if found is not None and not found.exemption:
            rules.insert(0, Rule(connect_to, (), "connect-to"))
    nls = nls_name(settings)
    if nls is not None:
        found = Table(rules).rule_for(nls)
        if found is not None and not found.exemption:
            rules.insert(0, Rule(nls, (), "network-location-server"))
    return Table(rules)


def _upstream_ipv6(settings: Settings) -> tuple[Address, ...]:
    """Without DNS64 clients ask the intranet's own DNS servers, as far as IPv6 reaches them."""
    return tuple(server.address for server in settings.dns64.upstream_servers if server.address.version == 6)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
