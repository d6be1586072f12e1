"""Cmdlets of the server: `Get-RemoteAccess`, `*-DAServer`, `Install-` and `Uninstall-RemoteAccess`."""

from __future__ import annotations

from typing import Any

from portico.errors import NotFound, PorticoError
from portico.management.client.models import SettingsDocument
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.changing import act, nothing_given, settings_change, warn
from portico.management.cmdlets.clients import client_properties
from portico.management.cmdlets.cmdlet import Context, absent, cmdlet
from portico.management.cmdlets.errors import not_built
from portico.management.cmdlets.settings_data import at, enabled, managers, namespaces, put
from portico.management.cmdlets.values import PsObject, Value

_ENTRYPOINT = Parameter("EntrypointName", position=0, missing="Multisite")
_PASS = Parameter("PassThru", "switch", help="Give the object as it is afterwards.")
_FORCE = Parameter("Force", "switch", help="Do not ask.")
_CERTIFICATE_ORDER = ("Subject", "Issuer", "Not Before", "Not After")


def _settings(context: Context) -> SettingsDocument | None:
    """None when nothing is installed."""
    try:
        return context.api.settings.show()
    except NotFound:
        return None


def _certificate(context: Context, found: SettingsDocument) -> str | None:
    """The server's certificate as Windows prints one; the file's name when it is imported."""
    if at(found.settings, "certificates.mode") == "imported":
        return str(at(found.settings, "certificates.server_certificate"))
    try:
        authority = context.api.ca.show()
    except PorticoError:
        return None
    own = authority.server_certificate
    if own is None:
        return None
    values = {
        "Subject": own["subject"],
        "Issuer": authority.subject,
        "Not Before": own["not_before"],
        "Not After": own["not_after"],
    }
    return "\n\n".join(f"[{name}]\n  {values[name]}" for name in _CERTIFICATE_ORDER)


def _server_properties(found: SettingsDocument) -> dict[str, Value]:
    value = found.value
    return {
        "ServerGpoName": None,
        "InternalIPv6Prefix": [str(prefix) for prefix in value("addresses.intranet_prefixes") or []],
        "ClientIPv6Prefix": value("ip_https.client_prefix"),
        "UserAuthentication": None,
        "ComputerCertAuthentication": enabled(value("ip_https.authentication") == "certificates"),
        "IPsecRootCertificate": None,
        "IntermediateRootCertificate": False,
        "TeredoState": "Disabled",
        "IsSingleNic": value("server.internet_interface") == value("server.internal_interface"),
        "IsNatDeployed": None,
        "HealthCheck": "Disabled",
    }


@cmdlet(
    "Get-RemoteAccess",
    "Shows the configuration of the deployment.",
    _ENTRYPOINT,
    notes="Properties of what Portico does not have (GPOs, IPsec, VPN) are empty. ComputerCertAuthentication is that "
    "of the IP-HTTPS tunnel.",
    example="Get-RemoteAccess | Select-Object DAStatus, LoadBalancing, ConnectToAddress",
)
def get_remote_access(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    found = _settings(context)
    status = {"DAStatus": "Installed" if found is not None else "Uninstalled", "DAInstallType": None}
    rest = {"VpnStatus": "Uninstalled", "VpnS2SStatus": "Uninstalled"}
    if found is None:
        return [PsObject("RemoteAccessCommon", [("DAStatus", "Uninstalled"), *rest.items()])]
    value = found.value
    balancing = at(found.settings, "load_balancing")
    client, server = client_properties(found), _server_properties(found)
    nls = _nls_properties(found)
    properties: dict[str, Value] = {
        **status,
        "DAInstallType": "FullInstall",
        **rest,
        "LoadBalancing": "NotConfigured" if balancing is None else "Nlb",
        "ConnectToAddress": value("deployment.connect_to"),
        "InternetInterface": value("server.internet_interface"),
        "InternalInterface": value("server.internal_interface"),
        "SslCertificate": _certificate(context, found),
        "AppServerSecurityGroupNameList": [],
        "AppServerGpoName": None,
        "ConnectionType": "NoE2EAuth",
        "TrafficProtection": "Disabled",
        "ClientSecurityGroupNameList": client["SecurityGroupNameList"],
        "ClientGpoName": client["GpoName"],
        "OnlyRemoteComputers": client["OnlyRemoteComputers"],
        "Downlevel": client["Downlevel"],
        "ForceTunnel": client["ForceTunnel"],
        "ForceTunnelingNrptSuffix": None,
        "EntrypointName": None,
        "DownlevelSecurityGroupNameList": [],
        "DownlevelGpoName": None,
        "DnsSuffix": namespaces(found),
        "EnableDAForAllNetworks": None,
        "SecureNameQueryFallback": None,
        "QueryPolicy": None,
        **server,
        **nls,
        "MgmtServer": [item["name"] for item in managers(found.settings)],
        "IPAssignmentMethod": None,
        "IPAddressRangeList": [],
        "IPv6Prefix": None,
        "AuthenticationType": None,
        "RadiusServerList": [],
    }
    return [PsObject("RemoteAccessCommon", properties)]


def _nls_properties(found: SettingsDocument) -> dict[str, Value]:
    section = at(found.settings, "network_location_server")
    if not isinstance(section, dict) or section.get("state") != "enabled":
        return {"NlsLocation": None, "NlsUrl": None, "NlsCertificate": None, "NlsReachability": None}
    url = section.get("url")
    return {
        "NlsLocation": "SeparateServer" if url else "DirectAccessServer",
        "NlsUrl": url,
        "NlsCertificate": section.get("certificate"),
        "NlsReachability": None,
    }


def _da_server(context: Context) -> PsObject:
    found = context.api.settings.show()
    server = _server_properties(found)
    server["GpoName"] = server.pop("ServerGpoName")
    return PsObject(
        "DAServer",
        {
            "DAInstallType": "FullInstall",
            "InternetInterface": found.value("server.internet_interface"),
            "InternalInterface": found.value("server.internal_interface"),
            "ConnectToAddress": found.value("deployment.connect_to"),
            "SslCertificate": _certificate(context, found),
            "GpoName": server.pop("GpoName"),
            **server,
        },
    )


@cmdlet("Get-DAServer", "Shows the properties of the DirectAccess server.", _ENTRYPOINT)
def get_da_server(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return [_da_server(context)]


_CHANGES = {
    "ConnectToAddress": "deployment.connect_to",
    "ClientIPv6Prefix": "ip_https.client_prefix",
    "InternalIPv6Prefix": "addresses.intranet_prefixes",
}


@cmdlet(
    "Set-DAServer",
    "Changes the ConnectTo address and the prefixes.",
    Parameter("ConnectToAddress", help="Public name or address that clients dial."),
    Parameter("ClientIPv6Prefix", help="Prefix of the clients: /64, or /59 with load balancing."),
    Parameter("InternalIPv6Prefix", "strings", help="Prefixes of the intranet; replaces the list."),
    Parameter(
        "TeredoState",
        choices=("Enabled", "Disabled"),
        missing_values={"Enabled": "Teredo"},
        help="Disabled, which it is.",
    ),
    Parameter(
        "UserAuthentication",
        choices=("UserPasswd", "TwoFactor"),
        missing_values={"UserPasswd": "Authentication of users", "TwoFactor": "Authentication of users"},
    ),
    Parameter("IPsecRootCertificate", "object", missing="IPsec", help="CAs of clients: certificates.client_ca"),
    Parameter("IntermediateRootCertificate", "switch", missing="IPsec"),
    Parameter(
        "DisableComputerCertAuthentication",
        "switch",
        missing="Kerberos proxy authentication",
        help="Without client certificates nobody would be authenticated",
    ),
    Parameter(
        "DAInstallType",
        choices=("FullInstall", "ManageOut"),
        missing_values={"ManageOut": "Manage-out only"},
        help="FullInstall, which it is.",
    ),
    Parameter("EntrypointName", missing="Multisite"),
    _PASS,
    _FORCE,
    changes=True,
    notes="Changing the ConnectTo address needs a certificate for it on every server; the built-in CA issues it.",
    example="Set-DAServer -ClientIPv6Prefix fd7c:1a2b:3c4d:1000::/59 -WhatIf",
)
def set_da_server(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    given = {name: path for name, path in _CHANGES.items() if name in bound}
    if not given:
        if "TeredoState" in bound or "DAInstallType" in bound:
            context.host.verbose("It is so already; nothing was changed.")
            return [_da_server(context)] if bound.switch("PassThru") else []
        raise nothing_given(bound, (*_CHANGES, "TeredoState", "DAInstallType"))

    def edit(data: dict[str, Any]) -> None:
        for name, path in given.items():
            put(data, path, bound.get(name))

    question = ""
    if "ConnectToAddress" in bound:
        question = "Clients reach the deployment at another address afterwards. Do you want to continue?"
    outcome = settings_change(context, bound, edit, target=", ".join(given.values()), question=question)
    return [_da_server(context)] if outcome is not None and bound.switch("PassThru") else []


_DA, _VPN, _CHECK, _TENANT = "DirectAccess", "Vpn", "DAPrerequisiteChecks", "MultiTenant"


@cmdlet(
    "Install-RemoteAccess",
    "Makes this machine a Remote Access server, or checks whether it could be one.",
    Parameter(
        "DAInstallType",
        position=0,
        required=True,
        sets=(_DA,),
        choices=("FullInstall", "ManageOut"),
        missing_values={"ManageOut": "Manage-out only"},
        help="FullInstall.",
    ),
    Parameter("ConnectToAddress", position=1, required=True, sets=(_DA,), help="Public name or address."),
    Parameter("InternetInterface", sets=(_DA,), help="Interface to the Internet; found when there is one choice."),
    Parameter("InternalInterface", sets=(_DA,), help="Interface to the intranet; the same on a single-NIC server."),
    Parameter("DeployNat", "switch", sets=(_DA,), help="Taken: a NAT in front needs nothing here."),
    Parameter("NoPrerequisite", "switch", sets=(_DA,), missing="Installing without checks"),
    Parameter("ClientGpoName", aliases=("GpoName",), sets=(_DA,), missing="Group Policy"),
    Parameter("ServerGpoName", sets=(_DA,), missing="Group Policy"),
    Parameter("NlsCertificate", "object", sets=(_DA,), missing="Choosing certificates of the machine's store"),
    Parameter("NlsUrl", sets=(_DA,), missing="Choosing it at the installation", help="Set-DANetworkLocationServer"),
    Parameter("Prerequisite", "switch", required=True, sets=(_CHECK,), help="Only check this machine."),
    Parameter("VpnType", required=True, sets=(_VPN, _TENANT), missing="VPN"),
    Parameter("MultiTenancy", "switch", required=True, sets=(_TENANT,), missing="Multitenancy"),
    *(Parameter(name, sets=(_VPN,), missing="VPN") for name in ("IPAddressRange", "IPv6Prefix", "EntrypointName")),
    *(
        Parameter(name, sets=(_VPN,), missing="RADIUS")
        for name in ("RadiusServer", "RadiusPort", "RadiusScore", "RadiusTimeout", "SharedSecret", "MsgAuthenticator")
    ),
    Parameter("PassThru", "switch", help="Give the object as it is afterwards."),
    _FORCE,
    default_set=_DA,
    changes=True,
    notes="Runs on this machine as root. The intranet's domain is that of the machine (`hostname -d`); everything else "
    "that `portico server install` asks has its default.",
    example="Install-RemoteAccess -DAInstallType FullInstall -ConnectToAddress da.example.net -WhatIf",
)
def install(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    local = context.local
    if local is None:
        raise not_built("Install-RemoteAccess", "Installing another machine from here")
    wish = {
        key: str(bound.get(name))
        for name, key in (
            ("ConnectToAddress", "connect_to"),
            ("InternetInterface", "internet"),
            ("InternalInterface", "internal"),
        )
        if name in bound
    }
    if bound.parameter_set == _CHECK:
        return [_problem(item) for item in local.check(wish)]
    planned = local.install(wish, dry_run=True)
    question = (
        "Installing Remote Access will configure this computer as a Remote Access server. Do you want to install "
    )
    if bound.switch("Verbose") or bound.switch("WhatIf"):
        for line in planned:
            (context.host.information if bound.switch("WhatIf") else context.host.verbose)(line)
    if not act(context, bound, "this computer", question=f"{question}Remote Access?"):
        return []
    for line in local.install(wish, dry_run=False):
        context.host.verbose(line)
    warn(context, bound, ("The server was installed; start it with: portico server start",))
    return []


def _problem(item: dict[str, Any]) -> PsObject:
    return PsObject(
        "PrerequisiteCheck",
        [
            ("Severity", str(item["severity"]).capitalize()),
            ("Code", item["code"]),
            ("Path", item["path"]),
            ("ErrorDesc", item["what"]),
            ("ErrorCause", item["why"]),
            ("ErrorResoln", item["resolution"]),
        ],
    )


@cmdlet(
    "Uninstall-RemoteAccess",
    "Takes the role off this machine; settings and certificates stay.",
    Parameter("VpnType", missing="VPN"),
    Parameter("EntrypointName", missing="Multisite"),
    _PASS,
    _FORCE,
    changes=True,
    notes="With load balancing on it is refused: end load balancing first, as the virtual addresses would be lost.",
)
def uninstall(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    local = context.local
    if local is None:
        raise not_built("Uninstall-RemoteAccess", "Uninstalling another machine from here")
    planned = local.uninstall(dry_run=True)
    if bound.switch("Verbose") or bound.switch("WhatIf"):
        for line in planned:
            (context.host.information if bound.switch("WhatIf") else context.host.verbose)(line)
    question = "Uninstalling Remote Access will remove its configuration from this computer. Do you want to continue?"
    if not act(context, bound, "this computer", question=question):
        return []
    context.close()
    for line in local.uninstall(dry_run=False):
        context.host.verbose(line)
    return []


absent(
    "Set-RemoteAccess",
    "Changes certificate and adapters of the server.",
    "Choosing certificates of the machine's store (settings: certificates.server_certificate)",
    Parameter("SslCertificate", "object"),
    Parameter("UseHttp", "object"),
    Parameter("InternetInterface"),
    Parameter("InternalInterface"),
    _PASS,
)
for _name, _text in (
    ("Add-DAEntryPoint", "Adds an entry point."),
    ("Get-DAEntryPoint", "Shows entry points."),
    ("Enable-DAMultiSite", "Begins a multisite deployment."),
):
    absent(_name, _text, "Multisite", Parameter("Name"), Parameter("RemoteAccessServer"), Parameter("ConnectToAddress"))
