"""Health says what is broken, why and what to do, on every server; receivers are told once.

One cluster, broken in many ways one after another. Waits overlap: what takes long to be seen is broken first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml

from portico.health.heuristics.machine import RESTARTS
from portico.lab import deployment, wait
from portico.lab.hosts import CODE, PYTHON, Host, LabFailure
from portico.lab.lab import Lab
from portico.lab.services import bind
from portico.lab.topology import dedicated
from tests.lab.helpers import gateway_pid

SERVERS = ("da1", "da2")
RECEIVER = "10.0.0.9"
PATIENCE = 90.0
DISK = "/var/log/portico"


class Watched:
    """The cluster as its health shows it, and what the receiver of alerts was told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.received = lab.host("mgmt").disk / "etc/portico/received"
        self.skipped = 0

    def report(self, ask: str = "da1") -> dict[str, Any]:
        """`portico health --json`, as one server answers it."""
        done = self.lab.host(ask).run("portico", "health", "--json", check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if found["state"] == "Error" else 0), done
        return found

    def row(self, server: str, component: str, ask: str = "da1") -> dict[str, Any]:
        every = deployment.ask_server(self.lab.host(ask), "/v1/health")["servers"]
        (report,) = [one for one in every if one["server"] == server]
        (row,) = [row for row in report["components"] if row["component"] == component]
        return dict(row)

    def sees(
        self, server: str, component: str, code: str, ask: str = "da1", about: str | None = None
    ) -> dict[str, Any]:
        """Waits for a finding, and returns it."""

        def look() -> dict[str, Any] | None:
            findings = self.row(server, component, ask)["findings"]
            wanted = [f for f in findings if f["code"] == code and about in (None, f["about"])]
            return wanted[0] if wanted else None

        found = wait.until(
            f"{ask} to see {code} of {server}",
            look,
            timeout=PATIENCE,
            interval=0.5,
            evidence=lambda: self.evidence(ask),
        )
        assert found is not None and found["cause"] and found["resolution"]
        return found

    def fine(self, server: str, component: str, ask: str = "da1") -> None:
        wait.until(
            f"{component} of {server} to be fine",
            lambda: self.row(server, component, ask)["state"] == "OK",
            timeout=PATIENCE,
            interval=0.5,
            evidence=lambda: self.evidence(),
        )

    def alerts(self, server: str, component: str, about: str = "") -> list[dict[str, Any]]:
        lines = self.received.read_text().splitlines() if self.received.exists() else []
        found = [json.loads(line) for line in lines[self.skipped :]]
        return [a for a in found if (a["server"], a["component"], a["about"]) == (server, component, about)]

    def told(self, kind: str, server: str, component: str, about: str = "") -> dict[str, Any]:
        """Waits for an alert; there is exactly one of its kind."""
        wait.until(
            f"an alert ({kind}) about {server} {component} {about}",
            lambda: [a for a in self.alerts(server, component, about) if a["kind"] == kind],
            timeout=PATIENCE,
            interval=0.2,
            evidence=lambda: self.evidence(),
        )
        (alert,) = [a for a in self.alerts(server, component, about) if a["kind"] == kind]
        return alert

    def from_now_on(self) -> None:
        """Alerts that came until now count no more."""
        self.skipped = len(self.received.read_text().splitlines()) if self.received.exists() else 0

    def evidence(self, ask: str = "da1") -> str:
        received = self.received.read_text() if self.received.exists() else "nothing was received"
        shown = self.lab.host(ask).run("portico", "health", check=False).stdout
        return "\n".join([shown, received, *(self.lab.host(name).log_tail(deployment.SERVER, 25) for name in SERVERS)])

    def change(self, **changes: Any) -> None:
        """Changes whole sections of the settings, from the first server."""
        host = self.lab.host("da1")
        document = yaml.safe_load(host.output("portico", "settings", "show"))
        for section, value in changes.items():
            document[section] = {**document[section], **value} if isinstance(value, dict) else value
        host.write("/etc/portico/changed.yaml", yaml.safe_dump(document), 0o600)
        host.run("portico", "settings", "apply", "/etc/portico/changed.yaml", "--yes", timeout=90.0)


@pytest.fixture(scope="module")
def watched(two_servers: Lab) -> Iterator[Watched]:
    """Two servers that report drift and tell a receiver; a partner's CA whose end is near."""
    lab = two_servers
    mgmt, secret = lab.host("mgmt"), secrets.token_hex(16)
    _certificate(mgmt, "hooks", 30, f"subjectAltName=IP:{RECEIVER}")
    _certificate(mgmt, "partner", 20, "keyUsage=critical,keyCertSign,cRLSign")
    pems = {name: (mgmt.disk / f"etc/portico/{name}.pem").read_text() for name in ("hooks", "partner")}
    mgmt.write("/etc/portico/secret", secret, 0o600)
    for name in SERVERS:
        host = lab.host(name)
        host.write("/etc/portico/alerts.secret", f"{secret}\n", 0o600)
        for file, pem in pems.items():
            host.write(f"/etc/portico/{file}.pem", pem)
    files = [f"/etc/portico/{name}" for name in ("hooks.pem", "hooks.key", "secret", "received")]
    mgmt.start_service("hooks", [PYTHON, f"{CODE}/tests/peers/hooks.py", RECEIVER, "8443", *files])
    wait.until("the receiver of alerts", lambda: mgmt.output("ss", "-Hltn", "sport = :8443"))
    hook = {
        "url": f"https://{RECEIVER}:8443/",
        "secret_file": "/etc/portico/alerts.secret",
        "ca_file": "/etc/portico/hooks.pem",
    }
    made = Watched(lab)
    wait.until(
        "everything to be fine",
        lambda: (report := made.report())["state"] == "OK" and len(report["servers"]) == 2,
        timeout=PATIENCE,
        evidence=made.evidence,
    )
    made.change(
        drift="report",
        alerts={"webhooks": [hook], "hold_down_seconds": 2, "per_hour": 3600},
        certificates={"client_ca": ["/etc/portico/partner.pem"]},
    )
    yield made


def _certificate(host: Host, name: str, days: int, extension: str) -> None:
    files = ["-keyout", f"/etc/portico/{name}.key", "-out", f"/etc/portico/{name}.pem"]
    host.write("/etc/portico/.made", "")
    host.run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-days", str(days), "-addext", extension, *files),
    )


def test_a_dead_server_is_told_by_the_one_that_is_left_and_since_when_is_kept(watched: Watched) -> None:
    lab = watched.lab
    watched.fine("da2", "high-availability", ask="da1")
    watched.sees("da1", "network-security", "CLIENT_CA_EXPIRES")
    watched.told("raised", "da1", "network-security")
    before = watched.row("da1", "network-security")
    watched.from_now_on()
    lab.kill("da1")  # the one that speaks for all
    gone = watched.sees("da2", "high-availability", "SERVER_GONE", ask="da2", about="da1")
    assert "portico lb remove da1" in gone["resolution"]
    watched.sees("da2", "high-availability", "NO_REDUNDANCY", ask="da2")
    watched.sees("da2", "high-availability", "NO_QUORUM", ask="da2")
    watched.sees("da1", "server", "SERVER_SILENT", ask="da2")
    assert watched.row("da1", "dns", ask="da2")["state"] == "Unknown"

    # Its heartbeats are missed first; who asks for it is not answered some seconds later. That is one alert or two.
    def raised() -> list[dict[str, Any]]:
        return [a for a in watched.alerts("cluster", "high-availability", "da1") if a["kind"] == "raised"]

    wait.until(
        "an alert that da1 is gone",
        lambda: raised() and raised()[-1]["codes"] == ["SERVER_GONE"],
        timeout=PATIENCE,
        interval=0.2,
        evidence=lambda: watched.evidence(ask="da2"),
    )
    assert [a["codes"] for a in raised()[:-1]] in ([], [["SERVER_NOT_HEARD"]])
    assert {a["sender"] for a in raised()} == {"da2"}

    def silent() -> bool:
        asked = ("portico", "events", "--server", "da1", "--component", "server", "--json")
        events = lab.host("da2").json(*asked)["events"]
        return [(event["state"], event["codes"]) for event in events[-1:]] == [("Error", ["SERVER_SILENT"])]

    wait.until("the event that da1 is silent", silent, timeout=PATIENCE, evidence=lambda: watched.evidence(ask="da2"))

    lab.restart("da1")
    deployment.wait_for_convergence(lab, SERVERS, timeout=PATIENCE)
    for server in SERVERS:
        watched.fine(server, "high-availability", ask="da1")
    watched.told("cleared", "cluster", "high-availability", "da1")
    after = watched.row("da1", "network-security")
    assert after["state"] == before["state"] and after["since"] == before["since"], "a restart forgets nothing"
    assert watched.alerts("da1", "network-security") == [], "and tells nothing twice"
    # Its network configuration is the one of before, so that it came with the virtual addresses.
    assert "203.0.113.11/" not in lab.host("da1").output("ip", "-o", "addr", "show", "dev", "eth0")
    again = watched.sees("da1", "network-adapters", "VIRTUAL_ADDRESS_AT_BOOT", ask="da1", about="203.0.113.11")
    assert "203.0.113.21/24" in again["resolution"], again


def test_what_breaks_is_named_with_cause_and_resolution_and_told_once(watched: Watched) -> None:
    lab = watched.lab
    da1, da2 = lab.host("da1"), lab.host("da2")
    watched.from_now_on()
    # The intranet's DNS server dies: both servers see it, one of them tells.
    lab.host("dns").stop_service(bind.SERVICE)

    # An address is taken away, and drift is only reported.
    address = dedicated(2)["eth0"][1]
    da2.run("ip", "address", "delete", address, "dev", "eth0")
    # A disk of logs fills.
    da2.run("mkdir", "-p", DISK)
    da2.run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", DISK)
    da2.run("fallocate", "-l", "15900k", f"{DISK}/filler")

    partner = watched.sees("da2", "network-security", "CLIENT_CA_EXPIRES")
    assert partner["state"] == "Warning" and "partner.pem" in partner["cause"] and "client_ca" in partner["resolution"]
    drift = watched.sees("da2", "network-adapters", "ADDRESS_MISSING", ask="da1")
    assert drift["state"] == "Error" and address.partition("/")[0] in drift["cause"] and "drift" in drift["resolution"]
    disk = watched.sees("da2", "server", "DISK_NEARLY_FULL")
    assert disk["about"] == DISK and "df -h" in disk["resolution"]
    for ask in SERVERS:
        for server in SERVERS:
            dns = watched.sees(server, "dns", "DNS_NO_SERVER_ANSWERS", ask=ask)
            assert "10.0.0.53" in dns["cause"] and dns["state"] == "Error"
    assert watched.told("raised", "da2", "network-adapters")["sender"] == "da2"
    assert watched.told("raised", "da2", "server")["codes"] == ["DISK_NEARLY_FULL"]
    alert = watched.told("raised", "cluster", "dns")
    assert alert["sender"] == "da1" and alert["state"] == "Error" and "DNS_NO_SERVER_ANSWERS" in alert["codes"]

    # All of it is repaired; the gateway of the first server dies again and again meanwhile.
    bind.corporate_dns(lab.host("dns"), lab.topology)
    da2.run("umount", DISK)
    watched.change(drift="repair")

    def gateway_down() -> bool:
        # Each death in a row is followed by a longer rest, until one is long enough to be seen from da2.
        with suppress(LabFailure):
            da1.run("kill", "-KILL", str(gateway_pid(da1)), check=False)
            killed.append(True)
        codes = {f["code"] for f in watched.row("da1", "ip-https", ask="da2")["findings"]}
        return "IPHTTPS_GATEWAY_DOWN" in codes and len(killed) > RESTARTS

    killed: list[bool] = []
    wait.until("da2 to see that da1 serves nobody", gateway_down, timeout=PATIENCE, evidence=watched.evidence)
    restarts = watched.sees("da1", "services", "SERVICE_RESTARTS", ask="da2")
    assert "times within ten minutes" in restarts["cause"] and "journalctl" in restarts["resolution"]
    assert watched.told("raised", "da1", "services")["sender"] == "da1"
    watched.fine("da1", "ip-https")
    watched.fine("da2", "network-adapters")
    watched.fine("da2", "server")
    for server in SERVERS:
        watched.fine(server, "dns")
    assert watched.told("cleared", "cluster", "dns")["sender"] == "da1"
    assert watched.told("cleared", "da2", "network-adapters")["former"] == "Error"
    assert len(watched.alerts("cluster", "dns")) == 2, "both saw it, one told it"
