"""What differs between two documents, readable, with the consequences for those who are connected. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from portico.settings import cluster
from portico.settings.model import Settings


@dataclass(frozen=True)
class Change:
    """One setting that differs. `before` or `after` is None as well when the setting is null there."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.kind == "added":
            return f"+ {self.path}: {_shown(self.after)}"
        if self.kind == "removed":
            return f"- {self.path}: {_shown(self.before)}"
        return f"~ {self.path}: {_shown(self.before)} -> {_shown(self.after)}"

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Consequence:
    """What a change does to clients or administrators, beyond the setting itself."""

    path: str
    text: str
    disconnects: bool = False


@dataclass(frozen=True)
class Difference:
    """Changes in the order of the document and their consequences."""

    changes: tuple[Change, ...]
    consequences: tuple[Consequence, ...]

    @property
    def disconnects(self) -> bool:
        """Whether connected clients must redial."""
        return any(consequence.disconnects for consequence in self.consequences)

    def lines(self, *, connected: int | None = None) -> list[str]:
        """The difference as text, one line each; `connected` is the number of clients it would hit."""
        text = [str(change) for change in self.changes]
        for consequence in self.consequences:
            count = ""
            if consequence.disconnects and connected is not None:
                count = f" ({connected} client{'' if connected == 1 else 's'} will redial)"
            text.append(f"! {consequence.path}: {consequence.text}{count}")
        return text

    def as_dict(self) -> dict[str, Any]:
        return {
            "changes": [change.as_dict() for change in self.changes],
            "consequences": [
                {"path": item.path, "text": item.text, "disconnects": item.disconnects} for item in self.consequences
            ],
            "disconnects": self.disconnects,
        }


# Prefix of a path -> what follows when anything under it changes, and whether tunnels are closed.
_CONSEQUENCES: tuple[tuple[str, str, bool], ...] = (
    (
        "deployment.connect_to",
        "a server certificate for the new name is needed; enrolled clients keep dialling the old name: "
        "each needs a new token",
        True,
    ),
    ("deployment.domain", "clients resolve another namespace through the tunnel after their next refresh", False),
    ("deployment.organisation_prefix", "all derived prefixes change; every client gets new addresses", True),
    ("server.internet_interface", "the listener moves to another interface", True),
    ("server.internal_interface", "routes and NAT64 move to another interface", True),
    ("server.internal_ipv4", "NAT64 translates to another address; its TCP and UDP connections break", False),
    ("server.workers", "the gateway process restarts", True),
    (
        "ip_https.port",
        "the listener moves to another port; enrolled clients keep dialling the old one: each needs a new token, "
        "unless a router in front forwards the old port",
        True,
    ),
    ("ip_https.authentication", "changing the authentication mode closes all connections", True),
    ("ip_https.client_prefix", "clients get new addresses; intranet routers need a route to the new prefix", True),
    ("ip_https.segments", "applies to new tunnels", False),
    ("ip_https.minimum_tls", "applies to new tunnels; clients below the version can no longer connect", False),
    ("ip_https.ciphers", "applies to new tunnels; clients that have none of them can no longer connect", False),
    ("addresses.intranet_prefixes", "clients are advertised other routes", False),
    ("nat64.state", "reachability of IPv4-only servers changes", False),
    ("nat64.prefix", "clients must resolve names again before they reach IPv4-only servers", False),
    (
        "nat64.prefix_mapping",
        "connections to IPv4-only servers whose prefix changes break; clients must resolve their names again",
        False,
    ),
    (
        "nat64.static_bindings",
        "hosts reach clients at other IPv4 ports at once; connections through a binding that goes break",
        False,
    ),
    ("nat64.filtering", "who may answer to a client's ports changes at once, for open connections too", False),
    ("nat64.log_bindings", "bindings are written down from now on, or no longer; the users may have to be told", False),
    ("nat64.binding_log_retention_days", "what is older than the new time is deleted within the hour", False),
    ("nat64.ipv4_address_port_pool", "connections to IPv4-only servers on ports outside the new pool break", False),
    ("dns64.prefix_mapping", "clients must resolve names again before they reach IPv4-only servers", False),
    ("dns64.accept_interface", "hosts behind other interfaces can ask DNS64, or no longer", False),
    ("dns64.address", "clients ask another DNS address after their next refresh", False),
    ("nrpt", "clients use the new table after their next refresh", False),
    ("access.intranet", "what clients may reach changes at once, for open connections too", False),
    ("access.manage_out", "who may open connections to clients changes at once", False),
    ("certificates.mode", "certificates of the other mode are no longer accepted", True),
    ("certificates.client_ca", "tunnels with a certificate of a CA that is no longer listed are closed", True),
    ("certificates.server_certificate", "new tunnels see the new certificate", False),
)


def compare(before: Settings | None, after: Settings) -> Difference:
    """The difference from `before` (None: nothing configured yet) to `after`."""
    changes = tuple(_walk("", before.as_data() if before is not None else {}, after.as_data()))
    if before is None:
        return Difference(changes, ())
    consequences = tuple(
        Consequence(path, text, disconnects)
        for path, text, disconnects in _CONSEQUENCES
        if any(_under(change.path, path) for change in changes)
    )
    consequences += tuple(Consequence(*item) for item in cluster.consequences(before, after))
    return Difference(changes, consequences)


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))


def _walk(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            here = f"{path}.{key}" if path else str(key)
            if key not in after:
                yield Change(here, "removed", before[key], None)
            elif key not in before:
                yield from _leaves(here, after[key])
            else:
                yield from _walk(here, before[key], after[key])
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(path, before, after)
    elif before is None and isinstance(after, dict):
        yield from _leaves(path, after)
    elif after is None and isinstance(before, dict):
        yield from (Change(leaf.path, "removed", leaf.after, None) for leaf in _leaves(path, before))
    elif before != after or type(before) is not type(after):
        yield Change(path, "changed", before, after)


def _lists(path: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
    """Entries that came and went; when only their order differs, the list as a whole."""
    # By their text: lists have thousands of entries, and those of objects cannot be hashed.
    former, now = {json.dumps(item) for item in before}, {json.dumps(item) for item in after}
    gone = [item for item in before if json.dumps(item) not in now]
    new = [item for item in after if json.dumps(item) not in former]
    for item in gone:
        yield Change(path, "removed", item, None)
    for item in new:
        yield Change(path, "added", None, item)
    if not gone and not new and before != after:
        yield Change(path, "changed", before, after)


def _leaves(path: str, value: Any) -> Iterator[Change]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(f"{path}.{key}", child)
    else:
        yield Change(path, "added", None, value)


def _shown(value: Any) -> str:
    if value is None:
        return "(derived)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(child)}" for key, child in value.items()) + "}"
    return str(value)
