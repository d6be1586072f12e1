"""NAT64 between real kernels: sizes, fragments both ways, a narrow intranet path, traceroute, UDP without checksum."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from tests.lab.helpers import APP4, ECHO_PORT, echo_service, through_nat64

SIZES = [1, 512, 1231, 1232, 1233, 1252, 1260, 1452, 1472, 1473, 2000, 4000, 8192, 20000, 40000, 65000]

UDP_CLIENT = """
import socket, sys
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.settimeout(1)
udp.connect((sys.argv[1], int(sys.argv[2])))
for size in map(int, sys.argv[3:]):
    data = bytes((i * 7 + i // 256) % 256 for i in range(size))
    for attempt in range(5):  # the first large answer is what teaches its sender the path MTU
        udp.send(data)
        try:
            answer = udp.recv(65535)
        except TimeoutError:
            continue
        assert answer == data, f"{len(answer)} other bytes for {size}"
        break
    else:
        sys.exit(f"no answer of {size} bytes")
print("all")
"""

TCP_CLIENT = """
import socket, sys
for size in map(int, sys.argv[3:]):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as tcp:
        data = bytes((i * 7 + i // 256) % 256 for i in range(size))
        answer = b""
        at = 0
        while len(answer) < size:
            at += tcp.send(data[at : at + 65536]) if at < size else 0
            answer += tcp.recv(1 << 20)
        assert answer == data, f"other bytes for {size}"
print("all")
"""

# Each line: hop limit, who reported, ICMPv6 type and code.
TRACER = """
import socket, struct, sys, time
IPV6_RECVERR, SO_EE = 25, struct.Struct("=IBBBBII")
for hops in range(1, 9):
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    udp.connect((sys.argv[1], 33434 + hops))
    udp.send(b"trace")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            _, control, _, _ = udp.recvmsg(512, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        error = control[0][2]
        _, _, kind, code, *_ = SO_EE.unpack_from(error)
        address = socket.inet_ntop(socket.AF_INET6, error[SO_EE.size + 8 : SO_EE.size + 24])
        print(hops, address, kind, code, flush=True)
        break
    else:
        print(hops, "silence", 0, 0, flush=True)
    if kind == 1:
        break
"""

SERVER_WITHOUT_CHECKSUM = """
import socket
SO_NO_CHECK = 11
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
udp.bind(("10.0.0.4", 7007))
while True:
    data, sender = udp.recvfrom(65535)
    udp.sendto(data, sender)
"""

SERVER_THAT_TELLS_THE_PORT = """
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("10.0.0.4", 7008))
while True:
    data, sender = udp.recvfrom(65535)
    udp.sendto(str(sender[1]).encode(), sender)
"""


@pytest.fixture
def narrow_path(lab: Lab) -> Iterator[int]:
    """A router between the server and app4, whose link to app4 carries 700 bytes."""
    mtu, server, router = 700, lab.host("da1"), lab.host("mgmt")
    forwarding = router.output("sysctl", "-n", "net.ipv4.ip_forward")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    router.run("sysctl", "-qw", "net.ipv4.conf.eth0.send_redirects=0")
    router.run("ip", "route", "add", "10.0.0.4/32", "dev", "eth0", "mtu", "lock", str(mtu))
    server.run("ip", "route", "add", "10.0.0.4/32", "via", "10.0.0.9")
    try:
        yield mtu
    finally:
        server.run("ip", "route", "del", "10.0.0.4/32")
        router.run("ip", "route", "del", "10.0.0.4/32")
        router.run("sysctl", "-qw", f"net.ipv4.ip_forward={forwarding}")


def test_udp_of_all_sizes(lab: Lab, client: Host) -> None:
    sizes = [str(size) for size in SIZES]
    with echo_service(lab.host("app4"), "10.0.0.4"):
        address = str(through_nat64("10.0.0.4"))
        assert client.output(PYTHON, "-c", UDP_CLIENT, address, str(ECHO_PORT), *sizes, timeout=90.0) == "all"


def test_tcp_of_all_sizes(lab: Lab, client: Host) -> None:
    with echo_service(lab.host("app4"), "10.0.0.4"):
        address = str(through_nat64("10.0.0.4"))
        sizes = [*(str(size) for size in SIZES), "1000000"]
        assert client.output(PYTHON, "-c", TCP_CLIENT, address, str(ECHO_PORT), *sizes, timeout=90.0) == "all"


@pytest.mark.parametrize("size", [0, 56, 1231, 1232, 1233, 2000, 8000, 30000])
def test_ping_of_all_sizes(client: Host, size: int) -> None:
    answer = client.output("ping", "-6", "-c", "2", "-i", "0.1", "-W", "2", "-s", str(size), APP4)
    assert " 0% packet loss" in answer


def test_a_narrow_intranet_path_carries_everything(lab: Lab, client: Host, narrow_path: int) -> None:
    sizes = [str(size) for size in (1, 600, 700, 1232, 1233, 4000, 20000)]
    with echo_service(lab.host("app4"), "10.0.0.4"):
        address = str(through_nat64("10.0.0.4"))
        assert client.output(PYTHON, "-c", UDP_CLIENT, address, str(ECHO_PORT), *sizes, timeout=90.0) == "all"
        assert client.output(PYTHON, "-c", TCP_CLIENT, address, str(ECHO_PORT), *sizes, "300000", timeout=90.0) == "all"
    assert " 0% packet loss" in client.output("ping", "-6", "-c", "1", "-W", "2", "-s", "3000", address)


def test_traceroute_shows_every_router(client: Host, narrow_path: int) -> None:
    target = through_nat64("10.0.0.4")
    lines = [line.split() for line in client.output(PYTHON, "-c", TRACER, str(target), timeout=60.0).splitlines()]
    reported = [(address, int(kind), int(code)) for _, address, kind, code in lines]
    translator, server, router = "fd7c:1a2b:3c4d:1000::1", through_nat64("10.0.0.2"), through_nat64("10.0.0.9")
    assert reported == [
        (translator, 3, 0),
        (str(server), 3, 0),
        (str(router), 3, 0),
        (str(target), 1, 4),
    ]


def test_udp_without_checksum_from_ipv4(lab: Lab, client: Host) -> None:
    app4 = lab.host("app4")
    app4.start_service("no-checksum", [PYTHON, "-c", SERVER_WITHOUT_CHECKSUM])
    try:
        wait.until("the service", lambda: app4.output("ss", "-4", "-Hlun", "sport = :7007"))
        sizes = [str(size) for size in (0, 1, 100, 1232, 1400, 4000, 20000)]
        address = str(through_nat64("10.0.0.4"))
        assert client.output(PYTHON, "-c", UDP_CLIENT, address, "7007", *sizes, timeout=60.0) == "all"
    finally:
        app4.stop_service("no-checksum")


def test_clients_reach_each_others_mapping(lab: Lab, client: Host) -> None:
    """A computer with several addresses stands for several clients: each address has its own worker's tables."""
    program = """
import socket, sys
prefix, addresses = sys.argv[1], sys.argv[2:]
ends = []
for index, address in enumerate(addresses):
    end = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    end.settimeout(3)
    end.bind((address, 41000 + 2 * index))
    end.sendto(b"who am I", (prefix + "a00:4", 7008))
    ends.append((end, int(end.recv(100))))
for a, _ in ends:
    for size in (10, 2000):
        for b, mapped in ends:
            if a is b:
                continue
            a.sendto(b"r" * size, (prefix + "a00:2", mapped))
            data, sender = b.recvfrom(3000)
            assert data == b"r" * size and sender[0] == prefix + "a00:2", (data, sender)
            b.sendto(b"and back", sender)
            assert a.recv(100) == b"and back"
print("all")
"""
    app4 = lab.host("app4")
    own = deployment.tunnel_address(client)
    interface = client.json("ip", "-j", "-6", "addr", "show", "to", own)[0]["ifname"]
    others = [f"{':'.join(own.split(':')[:4])}::dead:{number}" for number in range(1, 5)]
    for address in others:
        client.run("ip", "-6", "addr", "add", f"{address}/128", "dev", interface)
    try:
        app4.start_service("tells-the-port", [PYTHON, "-c", SERVER_THAT_TELLS_THE_PORT])
        wait.until("the service", lambda: app4.output("ss", "-4", "-Hlun", "sport = :7008"))
        prefix = str(through_nat64("10.0.0.4")).removesuffix("a00:4")
        assert client.output(PYTHON, "-c", program, prefix, own, *others, timeout=60.0) == "all"
    finally:
        app4.stop_service("tells-the-port")
        for address in others:
            client.run("ip", "-6", "addr", "del", f"{address}/128", "dev", interface)
