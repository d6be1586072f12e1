"""The components, in the order of `Get-RemoteAccessHealth`. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Component(StrEnum):
    """A component; the value is its name in addresses of the API, in files and in alerts."""

    SERVER = "server"
    SIX_TO_FOUR = "6to4"
    VPN_ADDRESSING = "vpn-addressing"
    NETWORK_SECURITY = "network-security"
    DNS = "dns"
    IP_HTTPS = "ip-https"
    NAT64 = "nat64"
    DNS64 = "dns64"
    IPSEC = "ipsec"
    KERBEROS = "kerberos"
    DOMAIN_CONTROLLER = "domain-controller"
    MANAGEMENT_SERVERS = "management-servers"
    NETWORK_LOCATION_SERVER = "network-location-server"
    OTP = "otp"
    HIGH_AVAILABILITY = "high-availability"
    ISATAP = "isatap"
    VPN_CONNECTIVITY = "vpn-connectivity"
    TEREDO = "teredo"
    NETWORK_ADAPTERS = "network-adapters"
    SERVICES = "services"

    @property
    def label(self) -> str:
        """The name as Windows prints it."""
        return TITLES[self]

    @property
    def disabled(self) -> str:
        """Why it is Disabled, when it is."""
        return _DISABLED[self]

    @property
    def about(self) -> str:
        """What it stands for here, a sentence without a full stop."""
        return _ABOUT[self]


TITLES: Final = {
    Component.SERVER: "Server",
    Component.SIX_TO_FOUR: "6to4",
    Component.VPN_ADDRESSING: "Vpn Addressing",
    Component.NETWORK_SECURITY: "Network Security",
    Component.DNS: "Dns",
    Component.IP_HTTPS: "IP-Https",
    Component.NAT64: "Nat64",
    Component.DNS64: "Dns64",
    Component.IPSEC: "IPsec",
    Component.KERBEROS: "Kerberos",
    Component.DOMAIN_CONTROLLER: "Domain Controller",
    Component.MANAGEMENT_SERVERS: "Management Servers",
    Component.NETWORK_LOCATION_SERVER: "Network Location Server",
    Component.OTP: "Otp",
    Component.HIGH_AVAILABILITY: "High Availability",
    Component.ISATAP: "Isatap",
    Component.VPN_CONNECTIVITY: "Vpn Connectivity",
    Component.TEREDO: "Teredo",
    Component.NETWORK_ADAPTERS: "Network Adapters",
    Component.SERVICES: "Services",
}

_ABOUT: Final = {
    Component.SERVER: "the machine and its settings: whether it serves, disks, revisions, drift",
    Component.SIX_TO_FOUR: "clients that come over 6to4",
    Component.VPN_ADDRESSING: "addresses for VPN clients",
    Component.NETWORK_SECURITY: "who is let in: packet filter, the CAs of the clients, revocation",
    Component.DNS: "the intranet's DNS servers, asked directly every half minute",
    Component.IP_HTTPS: "the listener, its certificate, and room for more tunnels",
    Component.NAT64: "translation to IPv4-only servers: its address, room in its tables",
    Component.DNS64: "the DNS server of the clients: its address, and whether its questions are answered",
    Component.IPSEC: "IPsec inside the tunnels",
    Component.KERBEROS: "the Kerberos proxy",
    Component.DOMAIN_CONTROLLER: "domain controllers",
    Component.MANAGEMENT_SERVERS: "servers that reach clients before a user has logged on",
    Component.NETWORK_LOCATION_SERVER: "the server by which clients know that they are inside",
    Component.OTP: "one-time passwords",
    Component.HIGH_AVAILABILITY: "the other servers of the cluster, heartbeats, quorum, settings in common",
    Component.ISATAP: "ISATAP for manage-out",
    Component.VPN_CONNECTIVITY: "VPN clients",
    Component.TEREDO: "clients that come over Teredo",
    Component.NETWORK_ADAPTERS: "network interfaces, their links, addresses and routes",
    Component.SERVICES: "the processes: gateway, balancer; logs; alerts",
}

_DISABLED: Final = {
    Component.SERVER: "nothing is installed",
    Component.SIX_TO_FOUR: "the settings do not enable 6to4",
    Component.VPN_ADDRESSING: "the settings do not enable VPN",
    Component.NETWORK_SECURITY: "there are no settings in force",
    Component.DNS: "no DNS servers of the intranet are configured",
    Component.IP_HTTPS: "there are no settings in force",
    Component.NAT64: "nat64.state is disabled",
    Component.DNS64: "dns64.state is disabled",
    Component.IPSEC: "the settings do not enable IPsec; tunnels are authenticated by TLS client certificates",
    Component.KERBEROS: "the settings do not enable the Kerberos proxy",
    Component.DOMAIN_CONTROLLER: "the settings name no domain controller",
    Component.MANAGEMENT_SERVERS: "the settings name no management servers",
    Component.NETWORK_LOCATION_SERVER: "network_location_server.state is disabled",
    Component.OTP: "the settings do not enable one-time passwords",
    Component.HIGH_AVAILABILITY: "load balancing is not enabled",
    Component.ISATAP: "the settings do not enable ISATAP",
    Component.VPN_CONNECTIVITY: "the settings do not enable VPN",
    Component.TEREDO: "the settings do not enable Teredo",
    Component.NETWORK_ADAPTERS: "there are no settings in force",
    Component.SERVICES: "nothing is installed",
}
