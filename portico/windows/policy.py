"""What a Windows client is told by Group Policy, from the settings. Pure.

Keys and values are those of the client GPO that Windows Remote Access writes: tcpip.admx, [MS-GPNRPT] 2.2,
NCSI.admx and nca.admx. IPsec and firewall rules are not among them: a Windows client asks for AuthIP, which Portico
does not speak, and its tunnel is protected by TLS with certificates at both ends instead.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from portico.naming.nrpt import table
from portico.settings.effective import Effective
from portico.settings.located import corp_connectivity_name, native_ipv6, nls_url, web_probe_name
from portico.settings.model import Settings
from portico.windows.registry_pol import Data, Kind, RegistryValue

TRANSITION: Final = r"Software\Policies\Microsoft\Windows\TCPIP\v6Transition"
IPHTTPS: Final = rf"{TRANSITION}\IPHTTPS\IPHTTPSInterface"
DNS_CLIENT: Final = r"Software\Policies\Microsoft\Windows NT\DNSClient"
DNS_POLICY: Final = rf"{DNS_CLIENT}\DnsPolicyConfig"
CONNECTIVITY: Final = r"Software\Policies\Microsoft\Windows\NetworkConnectivityStatusIndicator\CorporateConnectivity"
ASSISTANT: Final = r"SOFTWARE\Policies\Microsoft\Windows\NetworkConnectivityAssistant"

DIRECT_ACCESS_RULE: Final = 4
FALLBACK_PRIVATE: Final = 2
# What the name of a rule's key is made from: the same rule has the same key in every export, so that a later
# import replaces it.
_RULES = uuid.UUID("8f1d2c9e-8d0b-5f0a-9a51-5f2f0c6b7a11")
_PROBE_ADDRESS: Final = 0x7F000001


@dataclass(frozen=True)
class Texts:
    """What users see, and what the assistant tries besides.

    Attributes:
        friendly_name: of the connection, at most 50 characters.
        support_email: where a user's logs go, at most 50 characters; None leaves it out.
        ping: hosts of the intranet that the assistant pings besides the web probe.
    """

    friendly_name: str = "Corporate Connection"
    support_email: str | None = None
    ping: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, text in (("friendly_name", self.friendly_name), ("support_email", self.support_email or "-")):
            if not 0 < len(text) <= 50:
                raise ValueError(f"{name} has 1 to 50 characters")


def probe_address(settings: Settings, values: Effective) -> IPv6Address:
    """What `directaccess-corpConnectivityHost` must resolve to through the tunnel.

    The NAT64 form of 127.0.0.1 where the intranet is reached by IPv4, ::1 where it has IPv6 of its own.
    """
    if values.nat64_prefixes and not native_ipv6(settings):
        return values.nat64_prefixes[0].network_address + _PROBE_ADDRESS
    return IPv6Address("::1")


def client_policy(settings: Settings, values: Effective, texts: Texts | None = None) -> list[RegistryValue]:
    """Every value of the client's policy, sorted as Windows groups them: transition, names, probes, assistant.

    Args:
        settings: localised (`portico.settings.localise`) where there is load balancing.
    """
    texts = texts if texts is not None else Texts()
    return [
        *_transition(values),
        *_names(settings, values),
        *_connectivity(settings, values),
        *_assistant(settings, values, texts),
    ]


def _transition(values: Effective) -> list[RegistryValue]:
    off = [
        RegistryValue(TRANSITION, name, Kind.SZ, "Disabled") for name in ("6to4_State", "ISATAP_State", "Teredo_State")
    ]
    return [
        *off,
        RegistryValue(TRANSITION, "Force_Tunneling", Kind.SZ, "Disabled"),
        RegistryValue(IPHTTPS, "IPHTTPS_ClientState", Kind.DWORD, 0),
        RegistryValue(IPHTTPS, "IPHTTPS_ClientUrl", Kind.SZ, values.url),
    ]


def _names(settings: Settings, values: Effective) -> list[RegistryValue]:
    found = [
        RegistryValue(DNS_CLIENT, "EnableDAForAllNetworks", Kind.DWORD, 0),
        RegistryValue(DNS_CLIENT, "DnsSecureNameQueryFallback", Kind.DWORD, FALLBACK_PRIVATE),
        RegistryValue(DNS_CLIENT, "DirectAccessQueryOrder", Kind.DWORD, 0),
    ]
    for rule in table(settings, values).rules:
        key = rf"{DNS_POLICY}\DA-{{{uuid.uuid5(_RULES, rule.namespace)}}}"
        row: tuple[tuple[str, Kind, Data], ...] = (
            ("Version", Kind.DWORD, 1),
            ("Name", Kind.MULTI_SZ, (rule.namespace,)),
            ("ConfigOptions", Kind.DWORD, DIRECT_ACCESS_RULE),
            ("DirectAccessDNSServers", Kind.SZ, ";".join(map(str, rule.servers))),
            ("DirectAccessProxyType", Kind.DWORD, 1 if rule.exemption else 0),
            ("DirectAccessProxyName", Kind.SZ, ""),
            ("DirectAccessQueryIPSECRequired", Kind.DWORD, 0),
            ("DirectAccessQueryIPSECEncryption", Kind.DWORD, 0),
            ("IPSECCARestriction", Kind.SZ, ""),
        )
        found += [RegistryValue(key, name, kind, data) for name, kind, data in row]
    return found


def _connectivity(settings: Settings, values: Effective) -> list[RegistryValue]:
    prefixes = [*values.intranet_prefixes, *values.nat64_prefixes, *(f"{end}/128" for end in values.tunnel_endpoints)]
    rows = {
        "WebProbeUrl": web_probe_url(settings),
        "DnsProbeHost": corp_connectivity_name(settings),
        "DnsProbeContent": str(probe_address(settings, values)),
        "SitePrefixes": ",".join(map(str, prefixes)),
    }
    if (url := nls_url(settings)) is not None:
        rows["DomainLocationDeterminationUrl"] = url
    return [RegistryValue(CONNECTIVITY, name, Kind.SZ, data) for name, data in rows.items()]


def web_probe_url(settings: Settings) -> str:
    """What the client fetches through the tunnel to learn that it is connected: plain HTTP on port 80."""
    return f"http://{web_probe_name(settings)}"


def _assistant(settings: Settings, values: Effective, texts: Texts) -> list[RegistryValue]:
    found = [
        RegistryValue(ASSISTANT, "FriendlyName", Kind.SZ, texts.friendly_name),
        RegistryValue(ASSISTANT, "ShowUI", Kind.DWORD, 1),
        RegistryValue(ASSISTANT, "NamePreferenceAllowed", Kind.DWORD, 0),
        RegistryValue(ASSISTANT, "PassiveMode", Kind.DWORD, 0),
    ]
    email = texts.support_email or settings.connectivity_assistant.support_email
    if email is not None:
        found.append(RegistryValue(ASSISTANT, "SupportEmail", Kind.SZ, email))
    # Windows wants at least one PING among the probes; DNS64's own address answers as soon as the tunnel is up.
    ping = texts.ping or ((str(values.dns64_address),) if values.dns64_address is not None else ())
    probes = [f"HTTP:{web_probe_url(settings)}", *(f"PING:{host}" for host in ping)]
    probes += settings.connectivity_assistant.probes
    for key, prefix, entries in (
        ("Probes", "Probe", probes),
        ("DTEs", "DTE", [f"PING:{end}" for end in values.tunnel_endpoints]),
    ):
        found += [
            RegistryValue(rf"{ASSISTANT}\{key}", f"{prefix}{number}", Kind.SZ, entry)
            for number, entry in enumerate(entries, 1)
        ]
    return found
