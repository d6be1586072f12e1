"""A remote computer behind a NAT is on the intranet: names, paths, errors, both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from portico.lab import deployment, summary
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.pcap import Capture
from portico.lab.services import bind
from tests.lab.helpers import APP4, APP6, ECHO_PORT, echo_service, through_nat64

NLS = "directaccess-nls.corp.example.net"
Recorder = Callable[[Host, str], AbstractContextManager[Capture]]


def test_ipv4_only_server_answers_by_name(client: Host) -> None:
    assert (
        client.output("curl", "-sf", "--max-time", "5", f"http://{APP4}/") == "app4 answers, and sees you as 10.0.0.2"
    )


def test_ipv6_server_answers_by_name(client: Host) -> None:
    address = deployment.tunnel_address(client)
    assert (
        client.output("curl", "-sf", "--max-time", "5", f"http://{APP6}/") == f"app6 answers, and sees you as {address}"
    )


def test_server_with_both_is_reached_over_ipv6(client: Host) -> None:
    assert client.output("curl", "-sf", "--max-time", "5", "http://dual.corp.example.net/").startswith("app6 answers")


def test_alias_of_an_ipv4_only_server_is_followed(client: Host) -> None:
    assert client.output("curl", "-sf", "--max-time", "5", "http://intranet.corp.example.net/").startswith(
        "app4 answers"
    )


def test_summary_of_make_up_is_all_green(lab: Lab) -> None:
    results = summary.measure(lab)
    assert len(results) == 4
    assert [result.answer for result in results if not result.works] == []
    assert [result.path for result in results[:3]] == ["IP-HTTPS, DNS64, NAT64", "IP-HTTPS, native IPv6", "direct"]


def test_names_outside_the_namespace_go_to_the_clients_own_resolver(lab: Lab, client: Host) -> None:
    before = len(bind.query_log(lab.host("internet")))
    assert client.output("curl", "-sf", "--max-time", "5", "http://only4.example.org/").endswith(
        "sees you as 203.0.113.101"
    )
    asked = bind.query_log(lab.host("internet"))[before:]
    assert "only4.example.org" in asked
    assert "example.org" not in bind.query_log(lab.host("dns"))


def test_inside_names_never_leave_to_the_public_resolver(lab: Lab, client: Host, capture: Recorder) -> None:
    with capture(client, "eth0") as outside:
        client.run("curl", "-sf", "--max-time", "5", f"http://{APP4}/")
        client.run("getent", "hosts", "no-such-name.corp.example.net", check=False)
        client.run("getent", "hosts", "public.example.org", check=False)
    names = outside.packets("dns", fields=["dns.qry.name"])
    assert any("example.org" in name for name in names), "the recording would show a leak"
    # Where the location server's name is asked for, inside or outside is decided: it is no name inside by definition.
    assert not [name for name in names if "corp.example.net" in name and name != NLS]
    assert "corp.example.net" not in bind.query_log(lab.host("internet")).replace(NLS, "")


def test_nothing_but_the_tunnel_leaves_towards_the_server(client: Host, capture: Recorder) -> None:
    with capture(client, "eth0") as outside:
        client.run("curl", "-sf", "--max-time", "5", f"http://{APP4}/")
        client.run("ping", "-6", "-c", "1", APP6)
    assert outside.packets("tcp.port == 443")
    assert not outside.packets("ip.addr == 10.0.0.0/8 or ipv6.addr == fd7c:1a2b:3c4d::/48")


@pytest.mark.parametrize("name", [APP4, APP6])
def test_ping(client: Host, name: str) -> None:
    assert " 0% packet loss" in client.output("ping", "-6", "-c", "3", "-i", "0.05", "-W", "2", name)


@pytest.mark.parametrize(("host", "address"), [("app4", "10.0.0.4"), ("app6", "fd7c:1a2b:3c4d:1::6")])
def test_udp_both_ways(lab: Lab, client: Host, host: str, address: str) -> None:
    program = (
        "import socket,sys\n"
        "info=socket.getaddrinfo(sys.argv[1],int(sys.argv[2]),type=socket.SOCK_DGRAM)[0]\n"
        "u=socket.socket(*info[:3]);u.settimeout(0.5);u.connect(info[4])\n"
        "for size in (1,100,1000,1232,1400,4000):\n"
        "    data=(bytes(range(256))*16)[:size]\n"
        "    for attempt in range(6):\n"  # the first large answer is what teaches its sender the path MTU
        "        u.send(data)\n"
        "        try: assert u.recv(65535)==data,size\n"
        "        except TimeoutError: continue\n"
        "        break\n"
        "    else: sys.exit(f'no answer of {size} bytes')\n"
        "print('all')"
    )
    with echo_service(lab.host(host), address):
        assert client.output(PYTHON, "-c", program, f"{host}.corp.example.net", str(ECHO_PORT)) == "all"


def test_path_mtu_is_1280_inside(client: Host, mgmt: Host) -> None:
    for name in (APP4, APP6):
        assert " 0% packet loss" in client.output("ping", "-6", "-c", "1", "-M", "do", "-s", "1232", name)
    too_long = client.run("ping", "-6", "-c", "1", "-W", "1", "-M", "do", "-s", "1233", APP6, check=False)
    assert too_long.returncode != 0
    assert "1280" in too_long.stdout + too_long.stderr


def test_a_packet_too_big_for_the_tunnel_is_reported_to_its_sender(client: Host, mgmt: Host) -> None:
    address = deployment.tunnel_address(client)
    answer = mgmt.run("ping", "-6", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", address, check=False)
    assert re.search(r"mtu[= ]+1280", answer.stdout + answer.stderr, re.IGNORECASE), answer.stdout
    # and what is not forbidden to be cut arrives in pieces
    assert " 0% packet loss" in mgmt.output("ping", "-6", "-c", "1", "-W", "2", "-s", "3000", address)


def test_icmp_errors_come_back_through_nat64(client: Host) -> None:
    program = (
        "import socket,sys\n"
        "u=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM);u.settimeout(3);u.connect((sys.argv[1],9))\n"
        "u.send(b'x')\n"
        "try: u.recv(1); print('answer')\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('silence')\n"
    )
    assert client.output(PYTHON, "-c", program, str(through_nat64("10.0.0.4"))) == "refused"
    assert client.output(PYTHON, "-c", program, "fd7c:1a2b:3c4d:1::6") == "refused"


def test_a_closed_port_is_refused_not_silent(client: Host) -> None:
    for name in (APP4, APP6):
        assert client.run("curl", "-s", "--max-time", "3", f"http://{name}:81/", check=False).returncode == 7


def test_a_host_that_does_not_exist_is_reported(client: Host) -> None:
    answer = client.run("ping", "-6", "-c", "1", "-W", "6", str(through_nat64("10.0.0.77")), check=False, timeout=15.0)
    assert "nreachable" in answer.stdout, answer.stdout


def test_hop_limit_errors_come_back(client: Host) -> None:
    answer = client.run("ping", "-6", "-c", "1", "-W", "3", "-t", "1", APP6, check=False)
    assert "Time exceeded" in answer.stdout, answer.stdout


def test_large_answers_of_the_corporate_dns_arrive_over_tcp(client: Host) -> None:
    answer = client.output("dig", "+short", "large.corp.example.net", "TXT")
    assert len(answer.splitlines()) == 12


def test_intranet_opens_connections_to_the_client(lab: Lab, client: Host, mgmt: Host) -> None:
    address = deployment.tunnel_address(client)
    assert " 0% packet loss" in mgmt.output("ping", "-6", "-c", "2", "-i", "0.05", "-W", "2", address)
    with echo_service(client, "::"):
        program = (
            "import socket,sys\n"
            "s=socket.create_connection((sys.argv[1],int(sys.argv[2])),5);s.sendall(b'manage out')\n"
            "print(s.recv(64).decode())"
        )
        assert mgmt.output(PYTHON, "-c", program, address, str(ECHO_PORT)) == "manage out"


def test_internet_hosts_do_not_reach_the_client_or_the_intranet(lab: Lab, client: Host) -> None:
    internet = lab.host("internet")
    internet.run("ip", "-6", "route", "add", "fd7c:1a2b:3c4d::/48", "via", "2001:db8:ffff::11")
    try:
        for address in (deployment.tunnel_address(client), "fd7c:1a2b:3c4d:1::6", "fd7c:1a2b:3c4d:3333::1"):
            assert internet.run("ping", "-6", "-c", "1", "-W", "1", address, check=False).returncode != 0, address
    finally:
        internet.run("ip", "-6", "route", "del", "fd7c:1a2b:3c4d::/48")
