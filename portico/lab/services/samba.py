"""A Samba Active Directory domain controller with its own DNS server, for tests that start it themselves."""

from __future__ import annotations

from portico.lab import wait
from portico.lab.hosts import Host

SERVICE = "samba"
DOMAIN, REALM, NAME = "ad.example.net", "AD.EXAMPLE.NET", "dc1"
ACCOUNT = "portico"
"""The account whose keytab `KEYTAB` is; a member of DnsAdmins."""
KEYTAB = "/var/lib/dc/portico.keytab"

_STATE = "/var/lib/dc"
_CONFIGURATION = f"{_STATE}/etc/smb.conf"
_PASSWORD = "Passw0rd!2026"  # noqa: S105 - of a domain that ends with the lab
_INTERFACE = "eth0"


def domain_controller(host: Host) -> None:
    """Provisions the domain (some seconds) and waits until its DNS answers."""
    four, six = host.state.topology.host(host.name).address(4), host.state.topology.host(host.name).address(6)
    host.write("/etc/hosts", f"127.0.0.1 localhost\n{four} {NAME}.{DOMAIN} {NAME}\n")
    host.write("/etc/resolv.conf", f"nameserver {four}\n")
    host.write("/etc/krb5.conf", krb5_configuration(four))
    # Provisioning would take over what the distribution has; an empty file of its own is what it starts from.
    host.write("/etc/samba/smb.conf", "")
    host.write("/etc/empty.conf", "")
    host.run("hostname", NAME)
    host.run("mkdir", "-p", "/run/samba", "/var/log/samba", "/var/lib/samba/private", _STATE)
    host.run(
        *("samba-tool", "domain", "provision", "--configfile=/etc/empty.conf", f"--targetdir={_STATE}"),
        *(f"--realm={REALM}", "--domain=AD", "--server-role=dc", "--dns-backend=SAMBA_INTERNAL", "--use-rfc2307"),
        *(f"--adminpass={_PASSWORD}", f"--host-name={NAME}", f"--host-ip={four}", f"--host-ip6={six}"),
        *(f"--option=interfaces=lo {_INTERFACE}", "--option=bind interfaces only=yes", "--option=dns forwarder="),
        timeout=180.0,
    )
    host.start_service(SERVICE, ["samba", "-i", "-M", "prefork", "-s", _CONFIGURATION])
    wait.until(
        f"the DNS server of {DOMAIN} to answer",
        lambda: "389" in host.run("dig", "+short", "+time=1", f"_ldap._tcp.{DOMAIN}", "SRV", f"@{four}").stdout,
        timeout=60.0,
        evidence=lambda: host.log_tail(SERVICE),
    )
    _tool(host, "user", "create", ACCOUNT, "--random-password")
    _tool(host, "group", "addmembers", "DnsAdmins", ACCOUNT)
    _tool(host, "domain", "exportkeytab", KEYTAB, f"--principal={ACCOUNT}")


def krb5_configuration(kdc: str) -> str:
    """/etc/krb5.conf of a member of the domain that does not depend on DNS."""
    return (
        f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_realm = false\n dns_lookup_kdc = false\n"
        f"[realms]\n {REALM} = {{\n  kdc = {kdc}\n }}\n"
    )


def delete_record(host: Host, name: str, kind: str, value: str) -> None:
    """Deletes a record of the domain as its administrator; `name` relative to it."""
    four = host.state.topology.host(host.name).address(4)
    host.run(
        *("samba-tool", "dns", "delete", four, DOMAIN, name, kind, value),
        *("-U", f"Administrator%{_PASSWORD}"),
        timeout=60.0,
    )


def _tool(host: Host, *argv: str) -> None:
    host.run("samba-tool", *argv, "-s", _CONFIGURATION, timeout=60.0)
