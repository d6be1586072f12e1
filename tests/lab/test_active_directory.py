"""Records in a real Active Directory: Samba's DNS server takes updates with Kerberos only (RFC 3645)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from portico.lab import deployment, wait
from portico.lab.deployment import SERVER
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.services import samba

pytestmark = [
    pytest.mark.skipif(
        shutil.which("samba-tool") is None, reason="Samba is not installed: apt-get install samba-ad-dc"
    ),
    pytest.mark.skipif(importlib.util.find_spec("gssapi") is None, reason="gssapi is not installed"),
]

KEYTAB = "/etc/portico/dns.keytab"
PROBE = f"directaccess-WebProbeHost.{samba.DOMAIN}"


@pytest.fixture(scope="module")
def controller(network: Lab) -> Host:
    host = network.host("mgmt")
    samba.domain_controller(host)
    return host


@pytest.fixture(scope="module")
def server(network: Lab, controller: Host) -> Iterator[Host]:
    """A Remote Access server whose intranet is the domain, with the account's keytab."""
    host, address = network.host("da1"), network.topology.host("mgmt").address(4)
    document = deployment.settings("da1")
    document["deployment"]["domain"] = samba.DOMAIN
    document["dns64"] = {"upstream_servers": [address]}
    document["corporate_dns"] = {
        "update": "gss-tsig",
        "keytab": KEYTAB,
        "principal": f"{samba.ACCOUNT}@{samba.REALM}",
    }
    host.write("/etc/krb5.conf", samba.krb5_configuration(address))
    keytab = host.disk / KEYTAB.lstrip("/")
    keytab.parent.mkdir(exist_ok=True)
    shutil.copyfile(controller.disk / samba.KEYTAB.lstrip("/"), keytab)
    keytab.chmod(0o600)
    host.write("/etc/portico/lab.yaml", yaml.safe_dump(document, sort_keys=False), 0o600)
    host.run("portico", "server", "install", "--file", "/etc/portico/lab.yaml", "--yes", "--no-start", timeout=60.0)
    deployment.start_server(host)
    yield host


def records(server: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.run("portico", "dns", "check", "--json", check=False).stdout)
    return found


def test_records_are_written_with_kerberos_and_put_back_when_they_go(controller: Host, server: Host) -> None:
    def right() -> bool:
        return bool(records(server)["ok"])

    wait.until("the records to be written", right, timeout=60.0, evidence=lambda: server.log_tail(SERVER, 30))
    found = records(server)
    assert [item["server"].split()[0] for item in found["servers"]] == [f"{samba.NAME}.{samba.DOMAIN}"]
    corp = next(item for item in found["wanted"] if item["purpose"] == "corpConnectivityHost")
    assert corp["addresses"] == ["127.0.0.1", "fd7c:1a2b:3c4d:7777::7f00:1"], "an IPv4-only intranet"

    def missed() -> str:
        """What is told of a record that goes; the server may have put it back before it was asked."""
        samba.delete_record(controller, "directaccess-WebProbeHost", "A", "10.0.0.2")
        return " ".join(fault["what"] for fault in records(server)["faults"] if fault["code"] == "DNS_RECORD_MISSING")

    what = wait.until("the loss to be told", missed, timeout=60.0)
    assert f"{PROBE} A is missing on the DNS server {samba.NAME}.{samba.DOMAIN}" in what
    done = json.loads(server.output("portico", "dns", "update", "--json", timeout=60.0))
    assert done["records"]["ok"]


def test_a_keytab_that_the_domain_does_not_know_is_refused_with_a_way_out(server: Host) -> None:
    keytab = server.disk / KEYTAB.lstrip("/")
    good = keytab.read_bytes()
    try:
        keytab.write_bytes(good[:40] + bytes(40) + good[80:])
        done = server.run("portico", "dns", "update", "--json", check=False, timeout=60.0)
        assert done.returncode != 0
        assert "KERBEROS_REFUSED" in done.stdout + done.stderr
    finally:
        keytab.write_bytes(good)
