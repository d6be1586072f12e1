"""Inside or outside, and whether it works: the network location server, the web probe, and the records for both."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from portico.lab import deployment, links, wait
from portico.lab.deployment import SERVER
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.services import bind
from portico.lab.topology import CORP_DOMAIN
from tests.lab.helpers import SERVER_ADDRESS, gateway_pid, slow_answers, through_nat64

PROBE, NLS, CORP = (f"directaccess-{name}.{CORP_DOMAIN}" for name in ("WebProbeHost", "nls", "corpConnectivityHost"))
OWN4, OWN6 = "10.0.0.2", "fd7c:1a2b:3c4d:1::2"
DNS64 = "fd7c:1a2b:3c4d:3333::1"
SECONDARY = "10.0.0.9"


@pytest.fixture(scope="module")
def server(lab: Lab) -> Host:
    """The server, when its records are there: they are written behind its start."""
    host = lab.host("da1")
    wait.until("the first records", lambda: records(host).get("ok"), timeout=60.0, evidence=lambda: log(host))
    return host


def log(server: Host) -> str:
    return server.log_tail(SERVER, 40)


def records(server: Host) -> dict[str, Any]:
    """A look at every DNS server of the zone, made now."""
    return dict(deployment.ask_server(server, "/v1/dns-records"))


def location(server: Host) -> dict[str, Any]:
    """What the server has seen by itself."""
    return dict(deployment.ask_server(server, "/v1/status")["location"])


def get(host: Host, url: str, seconds: float = 5.0) -> tuple[int, str]:
    """HTTP status (0: no answer) and body."""
    form = "\n%{http_code}"
    done = host.run("curl", "-sk", "--max-time", str(seconds), "-w", form, url, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def dig(host: Host, name: str, kind: str, server: str) -> list[str]:
    return sorted(host.run("dig", "+short", "+time=2", name, kind, f"@{server}", check=False).stdout.split())


def test_records_deleted_by_hand_are_back_and_the_alarm_named_them(lab: Lab, server: Host) -> None:
    dns, mgmt = lab.host("dns"), lab.host("mgmt")
    assert dig(mgmt, CORP, "AAAA", "10.0.0.53") == ["::1"] and dig(mgmt, CORP, "A", "10.0.0.53") == []
    bind.update(dns, f"update delete {PROBE}. A", f"update delete {CORP}.", f"update add {NLS}. 60 A 10.0.0.99")
    # It looks by itself; nobody asks it to.
    wait.until(
        "the records to be back",
        lambda: (
            dig(mgmt, PROBE, "A", "10.0.0.53") == [OWN4]
            and dig(mgmt, CORP, "AAAA", "10.0.0.53") == ["::1"]
            and dig(mgmt, NLS, "A", "10.0.0.53") == [OWN4]
        ),
        timeout=60.0,
        evidence=lambda: log(server),
    )
    wait.until("the repair to be told", lambda: len(location(server)["dns_records"]["repairs"]) >= 2, timeout=30.0)
    newest = location(server)["dns_records"]["repairs"][0]
    assert newest["repaired"]
    told = " ".join(newest["faults"])
    for part in (f"{PROBE} A on ns.{CORP_DOMAIN} (10.0.0.53) (missing)", f"{CORP} AAAA", f"{NLS} A", "(wrong)"):
        assert part in told
    said = server.log(SERVER).read_text()
    assert f"{PROBE} A is missing on the DNS server ns.{CORP_DOMAIN} (10.0.0.53)" in said
    assert "clients stay at 'Connecting' for ever" in said
    assert "fall back to the next transition technology" in said


def test_a_client_probes_the_web_through_its_tunnel_and_a_balancer_from_the_intranet(
    lab: Lab, client: Host, server: Host
) -> None:
    assert get(client, f"http://{PROBE}/")[0] == 200
    assert get(client, f"http://[{OWN6}]/")[0] == 200
    status, body = get(lab.host("mgmt"), f"http://{OWN4}/portico/health")
    assert status == 200 and json.loads(body) == {"status": "available", "reasons": {}}


def test_the_location_server_is_reached_inside_and_never_through_the_tunnel(
    lab: Lab, client: Host, server: Host
) -> None:
    mgmt = lab.host("mgmt")
    mgmt.write("/etc/ca.pem", server.output("portico", "ca", "export") + "\n")
    form = ["-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]
    assert mgmt.output("curl", "-s", "--cacert", "/etc/ca.pem", *form, f"https://{NLS}/") == "200"
    assert client.run("getent", "hosts", NLS, check=False).returncode != 0, "its name is exempt from the tunnel"
    for address in (through_nat64(OWN4), OWN6):
        assert get(client, f"https://[{address}]/", 2.0)[0] == 0


def test_the_pages_are_not_for_the_internet(lab: Lab, server: Host) -> None:
    internet = lab.host("internet")
    internet.run("ip", "route", "add", f"{OWN4}/32", "via", SERVER_ADDRESS)
    internet.run("ip", "-6", "route", "add", f"{OWN6}/128", "via", "2001:db8:ffff::11")
    try:
        for url in (f"https://{OWN4}/", f"http://{OWN4}/", f"https://[{OWN6}]/", f"http://[{OWN6}]/"):
            assert get(internet, url, 1.0)[0] == 0, url
        assert get(internet, f"http://{SERVER_ADDRESS}/", 1.0)[0] == 0
    finally:
        internet.run("ip", "route", "del", f"{OWN4}/32")
        internet.run("ip", "-6", "route", "del", f"{OWN6}/128")
    dropped = server.output("nft", "list", "chain", "inet", "portico", "input")
    assert "pages are not for the Internet" in dropped


def unavailable(host: Host, part: str) -> bool:
    status, body = get(host, f"http://{OWN4}/")
    return status == 503 and f"{part}: " in body


def test_the_web_probe_says_unavailable_with_the_reason_when_the_intranet_side_breaks(lab: Lab, server: Host) -> None:
    links.cut(lab.state, "dns", "eth0")
    try:
        wait.until(
            "503 for the intranet", lambda: unavailable(server, "intranet"), timeout=40.0, evidence=lambda: log(server)
        )
        assert "no DNS server of the intranet can be reached (10.0.0.53: " in get(server, f"http://{OWN4}/")[1]
        status, body = get(server, f"http://{OWN4}/portico/health")
        assert status == 503 and json.loads(body)["status"] == "unavailable"
    finally:
        links.heal(lab.state, "dns", "eth0")
    wait.until(
        "200 again", lambda: get(server, f"http://{OWN4}/")[0] == 200, timeout=40.0, evidence=lambda: log(server)
    )


def test_the_web_probe_names_dns64_or_nat64_and_health_a_record_when_that_breaks(lab: Lab, server: Host) -> None:
    def available() -> bool:
        return get(server, f"http://{OWN4}/")[0] == 200

    server.run("nft", "add table ip6 broken { chain input { type filter hook input priority -400; }; }")
    server.run("nft", f"add rule ip6 broken input ip6 daddr {DNS64} udp dport 53 drop")
    try:
        wait.until("503 for DNS64", lambda: unavailable(server, "DNS64"), timeout=40.0, evidence=lambda: log(server))
        assert "does not answer" in get(server, f"http://{OWN4}/")[1]
    finally:
        server.run("nft", "delete table ip6 broken")
    wait.until("200 again", available, timeout=40.0, evidence=lambda: log(server))

    # Nothing is put right by itself: the record that goes is a health error for as long as it is missing.
    server.run("portico", "settings", "set", "drift=report", "--yes", timeout=60.0)
    try:
        server.run("ip", "link", "set", "portico-nat64", "down")
        bind.update(lab.host("dns"), f"update delete {PROBE}. A")
        wait.until("503 for NAT64", lambda: unavailable(server, "NAT64"), timeout=40.0, evidence=lambda: log(server))
        assert "portico-nat64 is down" in get(server, f"http://{OWN4}/")[1]
        (lost,) = wait.until(
            "the health error", lambda: findings(server, "DNS_RECORDS_LOST"), timeout=60.0, evidence=lambda: log(server)
        )
        assert lost["state"] == "Error"
        for part in (f"{PROBE} A", f"ns.{CORP_DOMAIN} (10.0.0.53)", "clients stay at 'Connecting' for ever"):
            assert part in lost["cause"]
    finally:
        server.run("portico", "settings", "set", "drift=repair", "--yes", timeout=60.0)
    # Put right, since that is allowed again.
    wait.until("200 again", available, timeout=40.0, evidence=lambda: log(server))
    wait.until("the record to be back", lambda: records(server).get("ok"), timeout=60.0, evidence=lambda: log(server))


def test_a_gateway_that_hangs_makes_the_server_unavailable(server: Host) -> None:
    pid = str(gateway_pid(server))
    server.run("kill", f"-{int(signal.SIGSTOP)}", pid)
    wait.until("503 for the tunnel", lambda: unavailable(server, "tunnel"), timeout=40.0, evidence=lambda: log(server))
    server.run("kill", f"-{int(signal.SIGCONT)}", pid, check=False)
    wait.until(
        "200 again", lambda: get(server, f"http://{OWN4}/")[0] == 200, timeout=60.0, evidence=lambda: log(server)
    )


@pytest.fixture
def slow_dns(lab: Lab) -> Iterator[None]:
    with slow_answers(lab.host("dns"), "10.0.0.53"):
        yield


def findings(server: Host, code: str) -> list[dict[str, Any]]:
    """What health says of that kind."""
    report = json.loads(server.run("portico", "health", "--json", check=False).stdout or "{}")
    rows = [row for entry in report.get("servers", ()) for row in entry["components"]]
    return [finding for row in rows for finding in row["findings"] if finding["code"] == code]


def test_a_slow_dns_server_is_named_and_names_are_still_resolved(
    lab: Lab, client: Host, server: Host, slow_dns: None
) -> None:
    found = wait.until(
        "the slow server to be named",
        lambda: findings(server, "DNS_SERVER_SLOW"),
        timeout=120.0,
        evidence=lambda: log(server),
    )
    assert found[0]["about"] == "10.0.0.53"
    assert "clients wait that long for each name that is not cached" in found[0]["cause"]
    # A name that nobody has asked for, and the rest of the service, meanwhile.
    bind.update(lab.host("dns"), f"update add unasked.{CORP_DOMAIN}. 60 A 10.0.0.4")
    assert str(through_nat64("10.0.0.4")) in client.output("getent", "ahostsv6", f"unasked.{CORP_DOMAIN}")
    assert get(client, f"http://{PROBE}/", 15.0)[0] == 200
    assert get(server, f"http://{OWN4}/")[0] == 200


@pytest.fixture
def secondary(lab: Lab) -> Iterator[Host]:
    """A second name server of the zone, on the management host; the zone names it."""
    host, dns = lab.host("mgmt"), lab.host("dns")
    bind.update(
        dns, f"update add {CORP_DOMAIN}. 60 NS ns2.{CORP_DOMAIN}.", f"update add ns2.{CORP_DOMAIN}. 60 A {SECONDARY}"
    )
    bind.secondary_dns(host, dns)
    try:
        yield host
    finally:
        bind.update(dns, f"update delete {CORP_DOMAIN}. NS ns2.{CORP_DOMAIN}.", f"update delete ns2.{CORP_DOMAIN}. A")


def test_one_dns_server_that_is_stale_is_named(lab: Lab, server: Host, secondary: Host) -> None:
    wait.until("both to be right", lambda: records(server).get("ok"), timeout=30.0)
    assert len(records(server)["servers"]) == 2
    document = yaml.safe_load(server.output("portico", "settings", "show"))
    document["corporate_dns"]["other_entry_points"] = ["10.8.0.2"]
    server.write("/etc/portico/more.yaml", yaml.safe_dump(document, sort_keys=False), 0o600)
    # The primary gets the new address at once; nobody tells the secondary.
    server.run("portico", "settings", "apply", "/etc/portico/more.yaml", "--yes", timeout=60.0)
    wait.until(
        "the primary to have both addresses",
        lambda: dig(server, PROBE, "A", "10.0.0.53") == [OWN4, "10.8.0.2"],
        timeout=60.0,
        evidence=lambda: log(server),
    )

    def stale() -> list[dict[str, Any]]:
        return [problem for problem in location(server)["problems"] if problem["code"] == "DNS_SERVER_STALE"]

    wait.until("the stale server to be named", stale, timeout=40.0, evidence=lambda: log(server))
    (problem,) = stale()
    assert f"ns2.{CORP_DOMAIN} ({SECONDARY}) has an old copy of {PROBE} A" in problem["what"]
    assert "its serial is" in problem["why"] and "'Connecting' for ever" in problem["why"]
    assert get(server, f"http://{OWN4}/")[0] == 200, "nothing else breaks"
