"""The kernel as the settings want it, in real namespaces: made, kept, repaired, undone."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from portico.server.reconcile import sysctls
from portico.server.reconcile.kernel import Kernel
from portico.server.reconcile.wanted import (
    MAIN_TABLE,
    NAT64_TABLE,
    TRANSLATOR,
    TRANSLATOR_ADDRESS,
    TUNNEL,
    Device,
    DeviceAddress,
    Filter,
    Pool,
    Route,
    Wanted,
)

from .namespace import CORP_IPV4, INTERNAL_IPV4, ORGANISATION, Neighbour, command, corporate_network, isolated

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

CLIENTS = IPv6Network(f"{ORGANISATION}:1000::/64")
POOL = (32768, 60999)


def desired(kernel: Kernel) -> Wanted:
    return Wanted(
        devices=(Device(TUNNEL, 1280, 2), Device(TRANSLATOR, 1500, 2)),
        addresses=(
            *tuple(
                DeviceAddress(TUNNEL, IPv6Interface(text))
                for text in (
                    "fe80::1/64",
                    f"{ORGANISATION}:1000::1/64",
                    f"{ORGANISATION}:1000::2/128",
                    f"{ORGANISATION}:3333::1/128",
                )
            ),
            DeviceAddress(TRANSLATOR, TRANSLATOR_ADDRESS),
        ),
        routes=(Route(6, MAIN_TABLE, str(CLIENTS), TUNNEL), Route(4, NAT64_TABLE, "default", TRANSLATOR)),
        steer=True,
        sysctls={
            "net/ipv6/conf/all/forwarding": "1",
            "net/ipv4/conf/eth1/forwarding": "1",
            f"net/ipv4/conf/{TRANSLATOR}/forwarding": "1",
            f"net/ipv4/conf/{TRANSLATOR}/accept_local": "1",
            f"net/ipv4/conf/{TRANSLATOR}/rp_filter": "2",
        },
        reserved_ports=(POOL,),
        filter=Filter(
            "eth0",
            "eth1",
            CLIENTS,
            IPv6Address(f"{ORGANISATION}:3333::1"),
            (CLIENTS,),
            (Pool(IPv4Address(INTERNAL_IPV4), *POOL),),
            None,
            None,
            False,
            kernel.closed_families("eth1"),
        ),
    )


def snapshot() -> dict[str, str]:
    """Everything of the machine that Portico may touch, as text."""
    return {
        "addresses": command("ip", "-o", "addr"),
        "routes": command("ip", "route", "show", "table", "all"),
        "routes6": command("ip", "-6", "route", "show", "table", "all"),
        "rules": command("ip", "rule"),
        "nft": command("nft", "list", "ruleset"),
        "ports": Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text(),
        "range": Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(),
        "forward6": Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text(),
        "forward4": Path("/proc/sys/net/ipv4/conf/eth1/forwarding").read_text(),
    }


@isolated
def test_undo_leaves_no_trace(tmp_path: Path) -> None:
    with corporate_network():
        Path("/proc/sys/net/ipv4/ip_local_reserved_ports").write_text("8080,40000-40010")
        command("nft", "add", "table", "inet", "theirs")
        before = snapshot()
        kernel = Kernel(tmp_path / "kernel.json")
        wanted = desired(kernel)
        changes = kernel.reconcile(wanted)
        assert {c.part for c in changes} >= {"devices", "addresses", "routes", "rules", "sysctls", "nftables"}
        assert kernel.reconcile(wanted) == [], "a second look finds nothing to do"
        assert snapshot() != before
        assert kernel.undo() == []
        assert snapshot() == before


@isolated
def test_undo_after_a_crash_works_from_the_disk(tmp_path: Path) -> None:
    with corporate_network():
        before = snapshot()
        crashed = Kernel(tmp_path / "kernel.json")
        crashed.reconcile(desired(crashed))
        crashed._close_devices()  # what the kernel does to a killed agent's descriptors
        again = Kernel(tmp_path / "kernel.json")
        assert again.closed_families("eth1") == {4, 6}, (
            "a second start does not take Portico's values for the machine's"
        )
        again.reconcile(desired(again))
        assert again.undo() == []
        assert snapshot() == before


@isolated
def test_drift_is_named_and_repaired(tmp_path: Path) -> None:
    with corporate_network():
        kernel = Kernel(tmp_path / "kernel.json")
        wanted = desired(kernel)
        kernel.reconcile(wanted)
        good = snapshot()
        breakages = {
            "address": ("ip", "-6", "addr", "del", f"{ORGANISATION}:3333::1/128", "dev", TUNNEL),
            "foreign address": ("ip", "-6", "addr", "add", "fd00::bad/64", "dev", TUNNEL),
            "route": ("ip", "route", "flush", "table", "6464"),
            "connected route": ("ip", "-6", "route", "del", str(CLIENTS), "dev", TUNNEL),
            "rule": ("ip", "rule", "del", "pref", "100"),
            "sysctl": ("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"),
            "nftables rule": ("nft", "flush", "chain", "inet", "portico", "to_clients"),
            "nftables table": ("nft", "delete", "table", "inet", "portico"),
            "mtu": ("ip", "link", "set", TUNNEL, "mtu", "1400"),
        }
        for name, breakage in breakages.items():
            command(*breakage)
            named = kernel.plan(wanted, kernel.observe(wanted))
            assert named, f"{name} was not noticed"
            kernel.reconcile(wanted)
            assert kernel.plan(wanted, kernel.observe(wanted)) == [], f"{name} was not repaired"
        assert snapshot()["rules"] == good["rules"]
        assert snapshot()["nft"] == good["nft"]


@isolated
def test_deleted_device_is_made_anew_with_its_addresses(tmp_path: Path) -> None:
    with corporate_network():
        kernel = Kernel(tmp_path / "kernel.json")
        wanted = desired(kernel)
        kernel.reconcile(wanted)
        generation = kernel.generation
        command("ip", "link", "del", TUNNEL)
        kernel.reconcile(wanted)
        assert kernel.generation > generation
        assert f"{ORGANISATION}:1000::1" in command("ip", "-6", "addr", "show", "dev", TUNNEL)
        kernel.undo()


@isolated
def test_turning_nat64_off_gives_everything_of_it_back(tmp_path: Path) -> None:
    with corporate_network():
        before = snapshot()
        kernel = Kernel(tmp_path / "kernel.json")
        wanted = desired(kernel)
        kernel.reconcile(wanted)
        without = replace(
            wanted,
            devices=wanted.devices[:1],
            addresses=wanted.addresses[:-1],
            routes=wanted.routes[:1],
            steer=False,
            sysctls={"net/ipv6/conf/all/forwarding": "1"},
            reserved_ports=(),
            filter=replace(wanted.filter, pools=()),
        )
        kernel.reconcile(without)
        now = snapshot()
        assert [now[name] for name in ("rules", "ports", "range", "forward4")] == [
            before[name] for name in ("rules", "ports", "range", "forward4")
        ]
        kernel.undo()
        assert snapshot() == before


@isolated
def test_router_advertised_default_route_survives(tmp_path: Path) -> None:
    with corporate_network():
        names = ["net/ipv6/conf/eth1/accept_ra", "net/ipv6/conf/all/forwarding"]
        kernel = Kernel(tmp_path / "kernel.json")
        wanted = replace(desired(kernel), sysctls={names[0]: "2", names[1]: "1"})
        kernel.reconcile(wanted)
        assert list(kernel.ledger.sysctls)[:2] == names, "accepting advertisements comes before forwarding"
        kernel.undo()
        assert sysctls.observe(names) == {names[0]: "1", names[1]: "0"}


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol: int, source: str, destination: str, payload: bytes, *, df: bool = False) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        1,
        0x4000 if df else 0,
        64,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


class Translator:
    """The gateway's place: packets in and out of the TUN with its 10-byte virtio header."""

    def __init__(self, kernel: Kernel) -> None:
        self.fds = kernel.devices[TRANSLATOR].fds

    def send(self, packet: bytes) -> None:
        os.write(self.fds[0], bytes(10) + packet)

    def receive(self, protocol: int, seconds: float = 5.0) -> bytes:
        """The next IPv4 packet of the protocol."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for fd in self.fds:
                try:
                    packet = os.read(fd, 65_536)[10:]
                except BlockingIOError:
                    continue
                if packet[0] >> 4 == 4 and packet[9] == protocol:
                    return packet
            time.sleep(0.005)
        raise AssertionError(f"no packet of protocol {protocol} came back")


ECHO = (
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 7)); print('up', flush=True)\n"
    "while True: d, a = s.recvfrom(9000); s.sendto(d, a)\n"
)


def echo_server(corp: Neighbour) -> None:
    server = corp.popen("python3", "-c", ECHO)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"


@pytest.mark.parametrize("rp_filter", ["0", "1", "2"])
@isolated
def test_nat64_sends_from_a_local_address_and_gets_the_answers(tmp_path: Path, rp_filter: str) -> None:
    with corporate_network() as corp:
        Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text(rp_filter)
        echo_server(corp)
        kernel = Kernel(tmp_path / "kernel.json")
        kernel.reconcile(desired(kernel))
        translator = Translator(kernel)

        translator.send(ipv4(17, INTERNAL_IPV4, CORP_IPV4, udp(40_000, 7, b"across")))
        assert translator.receive(17)[20:][-6:] == b"across"

        request = struct.pack("!BBHHH", 8, 0, 0, 50_000, 1) + b"ping"
        request = request[:2] + struct.pack("!H", checksum(request)) + request[4:]
        translator.send(ipv4(1, INTERNAL_IPV4, CORP_IPV4, request))
        reply = translator.receive(1)
        assert (reply[20], struct.unpack("!H", reply[24:26])[0]) == (0, 50_000)

        translator.send(ipv4(17, INTERNAL_IPV4, CORP_IPV4, udp(40_001, 9, b"nobody there")))
        error = translator.receive(1)
        assert (error[20], error[21]) == (3, 3), "port unreachable from the server"

        command("ip", "link", "set", "eth1", "mtu", "1400")
        translator.send(ipv4(17, INTERNAL_IPV4, CORP_IPV4, udp(40_002, 7, bytes(1450)), df=True))
        error = translator.receive(1)
        assert (error[20], error[21], struct.unpack("!H", error[26:28])[0]) == (3, 4, 1400), "our own packet too big"

        translator.send(ipv4(17, INTERNAL_IPV4, "10.0.0.99", udp(40_003, 7, b"no such host")))
        error = translator.receive(1, 10)
        assert (error[20], error[21]) == (3, 1), "our own host unreachable"

        # The machine's own traffic on the same address is untouched.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((INTERNAL_IPV4, 0))
            assert not POOL[0] <= own.getsockname()[1] <= POOL[1], "ephemeral ports keep out of the pool"
            own.settimeout(5)
            own.sendto(b"mine", (CORP_IPV4, 7))
            assert own.recv(100) == b"mine"
        command("ping", "-c1", "-W2", CORP_IPV4)
        command("ping", "-c1", "-W2", INTERNAL_IPV4)
        kernel.undo()


@isolated
def test_clients_reach_the_intranet_and_nothing_else(tmp_path: Path) -> None:
    with corporate_network() as corp:
        kernel = Kernel(tmp_path / "kernel.json")
        kernel.reconcile(desired(kernel))
        fds = kernel.devices[TUNNEL].fds
        client = f"{ORGANISATION}:1000::c"

        def send(source: str, destination: str, header: int, payload: bytes) -> None:
            fixed = struct.pack("!IHBB", 0x60000000, len(payload), header, 64)
            packet = fixed + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
            os.write(fds[0], bytes(10) + packet + payload)

        def echo_request(source: str, destination: str) -> bytes:
            body = struct.pack("!BBHHH", 128, 0, 0, 1, 1)
            pseudo = (
                socket.inet_pton(socket.AF_INET6, source)
                + socket.inet_pton(socket.AF_INET6, destination)
                + struct.pack("!II", len(body), 58)
            )
            return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]

        def answered(destination: str, source: str = client, seconds: float = 1.0) -> bool:
            send(source, destination, 58, echo_request(source, destination))
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                for fd in fds:
                    try:
                        packet = os.read(fd, 65_536)[10:]
                    except BlockingIOError:
                        continue
                    if packet[6] == 58 and packet[40] == 129:
                        return True
                time.sleep(0.005)
            return False

        assert answered(f"{ORGANISATION}:1::4", seconds=5), "an intranet server"
        assert answered(f"{ORGANISATION}:1000::1"), "the server's own tunnel address"
        assert not answered(f"{ORGANISATION}:1::4", source=f"{ORGANISATION}:1::66"), "a source that is no client"
        corp.command("ping", "-6", "-c1", "-W1", f"{ORGANISATION}:1000::1")

        listing = json.loads(command("nft", "-j", "list", "chain", "inet", "portico", "from_clients"))
        dropped = [
            statement["counter"]["packets"]
            for item in listing["nftables"]
            if item.get("rule", {}).get("comment") == "not a client's address"
            for statement in item["rule"]["expr"]
            if "counter" in statement
        ]
        assert dropped == [1]
        kernel.undo()
