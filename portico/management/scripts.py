"""Copy script: what was done in the command line or the console, as a command line and as a cmdlet to paste. Pure.

Every changing command calls `script` with its name and its arguments; the console does the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Script:
    """One change to repeat.

    Attributes:
        cli: a line for a shell.
        cmdlet: the same for `portico cmdlet`, or Windows; None when no cmdlet does it.
        why: why there is none.
    """

    cli: str
    cmdlet: str | None
    why: str = ""

    def as_dict(self) -> dict[str, str | None]:
        return {"cli": self.cli, "cmdlet": self.cmdlet, "why": self.why or None}


def quoted(value: object) -> str:
    """A value as PowerShell reads it back, whatever is in it."""
    if isinstance(value, bool):
        return "$true" if value else "$false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    for quote in "'\u2018\u2019\u201a\u201b":
        text = text.replace(quote, quote * 2)
    return f"'{text}'"


def array(values: Sequence[object]) -> str:
    """Several values as `@('a','b')`."""
    return f"@({','.join(map(quoted, values))})"


def script(action: str, values: Mapping[str, Any]) -> Script:
    """The lines for an action.

    Args:
        action: the command's words: `lb enable`, `settings set`.
        values: its arguments and options by their names in the command line, without dashes; what is None, empty or
            False is left out. `arguments` holds the positional ones.

    Raises:
        KeyError: no such action.
    """
    how = _CMDLETS[action]
    words = ["portico", *action.split(), *map(str, values.get("arguments", ()))]
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if name == "arguments" or value is None or value is False or value == "" or value == []:
            continue
        if value is True:
            words.append(option)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option, str(one)]
    cmdlet = how(values) if callable(how) else None
    return Script(shlex.join([*words, "--yes"] if action in _ASKING else words), cmdlet, "" if callable(how) else how)


def _parameters(values: Mapping[str, Any], names: Mapping[str, str]) -> str:
    found = [f"-{parameter} {array(values[name])}" for name, parameter in names.items() if values.get(name)]
    return " ".join(found)


def _enable(values: Mapping[str, Any]) -> str | None:
    if values.get("mode") not in (None, "", "unicast"):
        return None
    names = {
        "internet_dedicated_address": "InternetDedicatedIPAddress",
        "internal_dedicated_address": "InternalDedicatedIPAddress",
        "internet_virtual_address": "InternetVirtualIPAddress",
        "internal_virtual_address": "InternalVirtualIPAddress",
    }
    return f"Set-RemoteAccessLoadBalancer {_parameters(values, names)} -Verbose"


_SETTINGS: Final = {
    "deployment.connect_to": "Set-DAServer -ConnectToAddress {} -Force",
    "ip_https.client_prefix": "Set-DAServer -ClientIPv6Prefix {} -Force",
    "accounting.store_limit": "Set-RemoteAccessInboxAccountingStore -StoreLimit {}",
    "network_location_server.url": "Set-DANetworkLocationServer -Url {} -Force",
}


def _set(values: Mapping[str, Any]) -> str | None:
    """A cmdlet for each assignment, or none at all: half a script would be worse."""
    lines = []
    for text in values.get("arguments", ()):
        key, sign, value = str(text).partition("=")
        key, value = key.strip(), value.strip()
        if not sign or key.endswith(("+", "-")) or not value or value in ("null", "~"):
            return None
        if key == "accounting.inbox" and value in ("enabled", "disabled"):
            lines.append(f"Set-RemoteAccessAccounting -{value.capitalize()[:-1]}AccountingType Inbox")
        elif key in _SETTINGS and value[0] not in "[{'\"":
            lines.append(_SETTINGS[key].format(quoted(value)))
        else:
            return None
    return "; ".join(lines) or None


def _only(name: str, form: str) -> Callable[[Mapping[str, Any]], str | None]:
    def make(values: Mapping[str, Any]) -> str | None:
        arguments = values.get("arguments", ())
        return form.format(quoted(arguments[0])) if arguments and not values.get(name) else None

    return make


def _add_manager(values: Mapping[str, Any]) -> str | None:
    """Windows names a management server by what it is given; here a name and its addresses go together."""
    if values.get("type") not in (None, "", "Manual"):
        return None
    name, *addresses = map(str, values.get("arguments", ()))
    return f"Add-DAMgmtServer -MgmtServer {array(addresses)}" if [name] == addresses else None


_CA: Final = "Windows has its certification authority in a role of its own (ADCSAdministration)"
_STORE: Final = "Windows keeps its configuration in its directory"
_ADMINISTRATORS: Final = "Windows has its administrators in its directory"

_CMDLETS: Final[dict[str, Callable[[Mapping[str, Any]], str | None] | str]] = {
    "lb enable": _enable,
    "lb disable": lambda _: "Set-RemoteAccessLoadBalancer -Disable -Force",
    "lb mode": "Windows changes the mode in its NLB Manager only (Set-NlbCluster -OperationMode)",
    "lb add": _only("internet_dedicated_address", "Add-RemoteAccessLoadBalancerNode -RemoteAccessServer {} -Force"),
    "lb remove": _only("lost", "Remove-RemoteAccessLoadBalancerNode -RemoteAccessServer {} -Force"),
    "cluster start": "the NLB cmdlets of Windows act on the cluster's interfaces (Start-NlbClusterNode)",
    "cluster stop": "the NLB cmdlets of Windows act on the cluster's interfaces (Stop-NlbClusterNode)",
    "cluster drain": "the NLB cmdlets of Windows act on the cluster's interfaces (Stop-NlbClusterNode -Drain)",
    "cluster suspend": "the NLB cmdlets of Windows act on the cluster's interfaces (Suspend-NlbClusterNode)",
    "cluster resume": "the NLB cmdlets of Windows act on the cluster's interfaces (Resume-NlbClusterNode)",
    "settings set": _set,
    "settings apply": "a whole document is no cmdlet",
    "settings rollback": "Windows has no revisions",
    "clients disconnect": "Windows disconnects VPN users only (Disconnect-VpnUser)",
    "clients revoke": "Windows revokes certificates in its CA",
    "ca revoke": "Windows revokes certificates in its CA",
    "ca init": _CA,
    "ca renew": _CA,
    "ca issue": _CA,
    "ca repair": _CA,
    "ca token create": "Windows makes computers clients by a group of its directory (Add-DAClient)",
    "ca token revoke": "Windows makes computers clients by a group of its directory (Remove-DAClient)",
    "management-servers add": _add_manager,
    "management-servers remove": _only("", "Remove-DAMgmtServer -MgmtServer {} -Force"),
    "users revoke": "Windows disconnects VPN users only (Disconnect-VpnUser)",
    "settings repair": "Windows keeps its configuration in its directory",
    "cluster store move": _STORE,
    "cluster store recover": _STORE,
    "cluster store rejoin": _STORE,
    "cluster store compact": _STORE,
    "cluster store witness add": _STORE,
    "cluster store witness remove": _STORE,
    "dns64 flush": "no cmdlet empties the cache of DNS64 (Clear-DnsServerCache is of the DNS server)",
    "dns update": "Windows registers its records by itself (Register-DnsClient)",
    "admin revoke": _ADMINISTRATORS,
    "admin revoke-user": _ADMINISTRATORS,
    "admin token create": _ADMINISTRATORS,
    "admin certificate issue": _ADMINISTRATORS,
}
"""What makes the cmdlet, or why there is none."""

_ASKING: Final = frozenset(_CMDLETS) - {
    *(f"cluster {command}" for command in ("start", "drain", "suspend", "resume")),
    "ca init",
    "ca issue",
    "ca token create",
    "cluster store compact",
    "dns64 flush",
    "dns update",
    "admin token create",
    "admin certificate issue",
}
"""Commands that ask before they change something."""


def actions() -> list[str]:
    """Every action that has a script."""
    return sorted(_CMDLETS)
