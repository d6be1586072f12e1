"""Cmdlets about what clients get: their properties, name resolution, network location and management servers."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from portico.errors import Conflict, InvalidInput, NotFound
from portico.management.client.models import SettingsDocument
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.changing import nothing_given, settings_change, warn
from portico.management.cmdlets.cmdlet import Context, absent, cmdlet
from portico.management.cmdlets.errors import not_built
from portico.management.cmdlets.settings_data import TYPES, at, managers, namespaces, put
from portico.management.cmdlets.values import PsObject, Value

_ENTRYPOINT = Parameter("EntrypointName", position=0, missing="Multisite")
_PASS = Parameter("PassThru", "switch", help="Give the object as it is afterwards.")
_FORCE = Parameter("Force", "switch", help="Do not ask.")


def client_properties(_found: SettingsDocument) -> dict[str, Value]:
    """The object DAClient. Who is a client is decided by enrolment, not by groups."""
    return {
        "SecurityGroupNameList": [],
        "GpoName": None,
        "OnlyRemoteComputers": "Disabled",
        "Downlevel": "Disabled",
        "ForceTunnel": "Disabled",
        "ForceTunnelingNrptSuffix": None,
        "EntrypointName": None,
        "DownlevelSecurityGroupNameList": [],
        "DownlevelGpoName": None,
    }


@cmdlet("Get-DAClient", "Shows what holds for all clients.", _ENTRYPOINT)
def get_da_client(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return [PsObject("DAClient", client_properties(context.api.settings.show()))]


def _off(name: str, feature: str) -> Parameter:
    return Parameter(
        name, choices=("Enabled", "Disabled"), missing_values={"Enabled": feature}, help="Disabled, which it is."
    )


@cmdlet(
    "Set-DAClient",
    "Changes what holds for all clients.",
    _off("ForceTunnel", "Force tunnelling"),
    _off("OnlyRemoteComputers", "Choosing clients by kind of computer"),
    _off("Downlevel", "Support of Windows 7 clients"),
    Parameter("EntrypointName", missing="Multisite"),
    _PASS,
    _FORCE,
    changes=True,
)
def set_da_client(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    if not any(name in bound for name in ("ForceTunnel", "OnlyRemoteComputers", "Downlevel")):
        raise nothing_given(bound, ("ForceTunnel", "OnlyRemoteComputers", "Downlevel"))
    context.host.verbose("It is so already; nothing was changed.")
    if bound.switch("PassThru"):
        return [PsObject("DAClient", client_properties(context.api.settings.show()))]
    return []


# NRPT


def _dns_configuration(context: Context) -> PsObject:
    found = context.api.settings.show()
    return PsObject(
        "DAClientDNSConfiguration",
        [
            ("NrptSuffixes", namespaces(found)),
            ("EnableDAForAllNetworks", None),
            ("SecureNameQueryFallback", None),
            ("QueryPolicy", None),
        ],
        view=("NrptSuffixes", "EnableDAForAllNetworks", "SecureNameQueryFallback", "QueryPolicy"),
    )


@cmdlet("Get-DAClientDnsConfiguration", "Shows the name resolution policy table of the clients.")
def get_dns(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return [_dns_configuration(context)]


_SUFFIX = Parameter(
    "DnsSuffix", aliases=("Namespace",), position=1, required=True, help="`.suffix`, or one exact name."
)
_SERVERS = Parameter(
    "DnsIPAddress",
    "strings",
    aliases=("DirectAccessDnsServers",),
    position=0,
    help="DNS servers that clients ask through the tunnel; without any the name is exempt from the tunnel.",
)
_PROXY = Parameter("ProxyServer", missing="Proxies for namespaces")


@cmdlet(
    "Add-DAClientDnsConfiguration",
    "Adds a rule or an exemption to the name resolution policy table.",
    _SERVERS,
    _SUFFIX,
    _PROXY,
    _PASS,
    changes=True,
    example="Add-DAClientDnsConfiguration -DnsSuffix '.branch.example.net' -DnsIPAddress fd7c:1a2b:3c4d:3333::1",
)
def add_dns(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    suffix = str(bound.get("DnsSuffix")).strip().lower()

    def edit(data: dict[str, Any]) -> None:
        nrpt = data["nrpt"]
        if suffix in (*(rule["namespace"] for rule in nrpt["rules"]), *nrpt["exemptions"]):
            raise Conflict(
                f"There is an entry for {suffix} already",
                why="its name is in the name resolution policy table",
                resolution=f"Change it: Set-DAClientDnsConfiguration -DnsSuffix '{suffix}'",
                code="NRPT_EXISTS",
            )
        _put_entry(nrpt, suffix, bound.get("DnsIPAddress"))

    return _changed_dns(context, bound, edit, suffix)


@cmdlet(
    "Set-DAClientDnsConfiguration",
    "Changes an entry of the name resolution policy table.",
    Parameter("DnsSuffix", aliases=("Namespace",), help="The entry."),
    Parameter("DnsIPAddress", "strings", aliases=("DirectAccessDnsServers",), help="Its DNS servers."),
    _PROXY,
    Parameter(
        "Local",
        aliases=("SecureNameQueryFallback",),
        choices=("FallbackSecure", "FallbackPrivate", "FallbackUnsecure"),
        missing="Choosing the fallback to local name resolution",
    ),
    _PASS,
    changes=True,
)
def set_dns(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    if "DnsSuffix" not in bound:
        raise nothing_given(bound, ("DnsSuffix",))
    suffix = str(bound.get("DnsSuffix")).strip().lower()

    def edit(data: dict[str, Any]) -> None:
        _take_out(data, suffix)
        _put_entry(data["nrpt"], suffix, bound.get("DnsIPAddress"))

    return _changed_dns(context, bound, edit, suffix)


@cmdlet(
    "Remove-DAClientDnsConfiguration",
    "Removes an entry of the name resolution policy table.",
    Parameter("DnsSuffix", aliases=("Namespace",), position=0, required=True, help="The entry."),
    _PASS,
    _FORCE,
    changes=True,
)
def remove_dns(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    suffix = str(bound.get("DnsSuffix")).strip().lower()
    question = f"Clients resolve {suffix} where they are afterwards. Do you want to continue?"
    return _changed_dns(context, bound, lambda data: _take_out(data, suffix), suffix, question=question)


def _put_entry(nrpt: dict[str, Any], suffix: str, servers: list[str] | None) -> None:
    if servers:
        nrpt["rules"] = [*nrpt["rules"], {"namespace": suffix, "dns_servers": servers}]
    else:
        nrpt["exemptions"] = [*nrpt["exemptions"], suffix]


def _take_out(data: dict[str, Any], suffix: str) -> None:
    nrpt = data["nrpt"]
    rules = [rule for rule in nrpt["rules"] if rule["namespace"] != suffix]
    exemptions = [name for name in nrpt["exemptions"] if name != suffix]
    if len(rules) == len(nrpt["rules"]) and len(exemptions) == len(nrpt["exemptions"]):
        own = suffix == f".{at(data, 'deployment.domain')}"
        raise NotFound(
            f"There is no entry for {suffix}",
            why="it is the rule of the deployment's domain, which is made by itself" if own else "the table lacks it",
            resolution="Show the table: Get-DAClientDnsConfiguration",
            code="NRPT_MISSING",
        )
    nrpt["rules"], nrpt["exemptions"] = rules, exemptions


def _changed_dns(context: Context, bound: Bound, edit: Any, suffix: str, *, question: str = "") -> list[Value]:
    outcome = settings_change(context, bound, edit, target=f"NRPT {suffix}", question=question)
    return [_dns_configuration(context)] if outcome is not None and bound.switch("PassThru") else []


# Network location server

_SECTION = "network_location_server"


def _location(context: Context) -> dict[str, Any]:
    section = at(context.api.settings.show().settings, _SECTION)
    if not isinstance(section, dict):
        raise not_built("The network location server", "The network location server")
    return section


def _nls(section: dict[str, Any]) -> PsObject:
    on = section["state"] == "enabled"
    location = ("SeparateServer" if section.get("url") else "DirectAccessServer") if on else None
    return PsObject(
        "DANetworkLocationServer",
        [
            ("NlsLocation", location),
            ("Url", section.get("url")),
            ("Certificate", section.get("certificate")),
            ("Reachability", None),
        ],
        view=("NlsLocation", "Url", "Certificate", "Reachability"),
    )


@cmdlet("Get-DANetworkLocationServer", "Shows where the network location server is.")
def get_nls(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return [_nls(_location(context))]


@cmdlet(
    "Set-DANetworkLocationServer",
    "Sets the network location server: another web server's page, or every server's own.",
    Parameter("Url", position=0, required=True, sets=("Url",), help="`https://name/` of another web server."),
    Parameter("CheckReachability", "switch", sets=("Url",), missing="Checking the page before it is set"),
    Parameter("NlsOnDAServer", "switch", required=True, sets=("OnServer",), help="Every Portico server has the page."),
    Parameter("Certificate", "object", sets=("OnServer",), missing="Choosing certificates of the machine's store"),
    _PASS,
    _FORCE,
    default_set="Url",
    changes=True,
)
def set_nls(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    _location(context)
    url = bound.get("Url") if bound.parameter_set == "Url" else None

    def edit(data: dict[str, Any]) -> None:
        put(data, f"{_SECTION}.state", "enabled")
        put(data, f"{_SECTION}.url", url)

    outcome = settings_change(context, bound, edit, target=f"the network location server ({url or 'on the servers'})")
    return [_nls(_location(context))] if outcome is not None and bound.switch("PassThru") else []


# Management servers

_TYPE = Parameter("Type", choices=("Manual", "Sccm", "DC", "All"), help="Only these; all of them by default.")
_MANAGER = Parameter("MgmtServer", "strings", position=0, required=True, help="Addresses of management servers.")
_MANAGER_NOTES = (
    "They are `management_servers`: what computers reach before their user has authenticated, while "
    "`access.user_authentication` is not none. One that has a name: `portico management-servers add NAME ADDRESS`."
)


def _mgmt(server: dict[str, Any]) -> PsObject:
    kind = TYPES.get(server["type"], "Manual")
    fields = [("Host", server["name"]), ("Type", kind), ("IPAddresses", list(server["addresses"]))]
    return PsObject("DAMgmtServer", fields, text=server["name"])


def _mgmt_objects(context: Context, wanted: str = "All") -> list[Value]:
    found = [_mgmt(server) for server in managers(context.api.settings.show().settings)]
    return [item for item in found if wanted.lower() in ("all", str(item.get("Type")).lower())]


@cmdlet(
    "Get-DAMgmtServer",
    "Shows the management servers, which computers reach before anybody has logged on.",
    _TYPE,
    _ENTRYPOINT,
    notes=_MANAGER_NOTES,
)
def get_mgmt(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return _mgmt_objects(context, str(bound.get("Type", "All")))


def _addresses(bound: Bound) -> list[str]:
    """The addresses given, as the settings write them."""
    found = []
    for text in bound.get("MgmtServer"):
        tidy = "".join(str(text).split())
        try:
            network = ip_network(tidy)
        except ValueError:
            raise InvalidInput(
                f"'{text}' is no address",
                why="names are not looked up, as their addresses change",
                resolution="Give the server's address, or add it by name: portico management-servers add NAME ADDRESS",
                code="CMDLET_ARGUMENT",
            ) from None
        if network.num_addresses > 1:
            raise not_built(f"-MgmtServer {tidy}", "A prefix as management server")
        found.append(str(network.network_address))
    return found


@cmdlet(
    "Add-DAMgmtServer",
    "Lets computers reach management servers before anybody has logged on.",
    _MANAGER,
    _PASS,
    changes=True,
    notes=_MANAGER_NOTES,
    example="Add-DAMgmtServer -MgmtServer fd7c:1a2b:3c4d:1::10 -WhatIf",
)
def add_mgmt(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    new = _addresses(bound)

    def edit(data: dict[str, Any]) -> None:
        former = managers(data)
        known = {address for server in former for address in server["addresses"]}
        added = [{"name": a, "addresses": [a], "type": "Manual"} for a in dict.fromkeys(new) if a not in known]
        data["management_servers"] = [*former, *added]
        if at(data, "access.user_authentication") == "none":
            warn(context, bound, ("Computers reach all of the intranet anyway: access.user_authentication is none",))

    outcome = settings_change(context, bound, edit, target=f"management_servers ({', '.join(new)})")
    return _mgmt_objects(context) if outcome is not None and bound.switch("PassThru") else []


@cmdlet(
    "Remove-DAMgmtServer",
    "Takes management servers out of what computers reach before anybody has logged on.",
    Parameter("MgmtServer", "strings", position=0, required=True, help="Their names, or addresses."),
    _PASS,
    _FORCE,
    changes=True,
    notes="Of a server with several addresses one address goes; with the last one it goes too.",
)
def remove_mgmt(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    gone = ["".join(str(text).split()).removesuffix("/32").removesuffix("/128") for text in bound.get("MgmtServer")]

    def edit(data: dict[str, Any]) -> None:
        left = managers(data)
        for text in gone:
            kept = [
                {**server, "addresses": [a for a in server["addresses"] if not _same(a, text)]}
                for server in left
                if server["name"] != text
            ]
            kept = [server for server in kept if server["addresses"]]
            if kept == left:
                raise NotFound(
                    f"{text} is no management server",
                    why=f"those are: {', '.join(server['name'] for server in left) or 'none'}",
                    resolution="List them: Get-DAMgmtServer",
                    code="MGMT_SERVER_MISSING",
                )
            left = kept
        data["management_servers"] = left

    question = f"Computers no longer reach {', '.join(gone)} before a user has logged on. Do you want to continue?"
    outcome = settings_change(context, bound, edit, target=f"management_servers ({', '.join(gone)})", question=question)
    return _mgmt_objects(context) if outcome is not None and bound.switch("PassThru") else []


def _same(address: str, text: str) -> bool:
    """Whether a text is this address, in whatever form."""
    try:
        return ip_address(address) == ip_address(text)
    except ValueError:
        return False


absent(
    "Update-DAMgmtServer",
    "Finds management servers in Active Directory anew.",
    "Finding servers in Active Directory",
    _TYPE,
    _PASS,
)
for _name in ("Add-DAClient", "Remove-DAClient"):
    absent(
        _name,
        "Makes the computers of a group clients, or no longer.",
        "Choosing clients by group (enrol them: portico ca token create)",
        Parameter("SecurityGroupNameList", "strings"),
        Parameter("GpoName"),
    )
