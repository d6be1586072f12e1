"""SoftEther: its own protocol, layer 2 in TLS over TCP, through a virtual hub bridged to a TAP of the gateway.

One account with the defaults of vpncmd (it opens two TCP connections), but without UDP acceleration: that would carry
the packets beside TLS, and is slower here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.network import GATEWAY_OUTER, SERVER_IPV4, Network
from benchmarks.peers import Path

_HUB = """\
HubCreate bench /PASSWORD:bench
Hub bench
UserCreate client /GROUP:none /REALNAME:none /NOTE:none
UserPasswordSet client /PASSWORD:bench
LogDisable packet
LogDisable security
BridgeCreate bench /DEVICE:se /TAP:yes
"""
_DETAILS = "/MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:yes /NOQOS:no /DISABLEUDP:yes"
# Password logon, one connection asked for, routes left alone.
_ACCOUNT = f"""\
NicCreate se
AccountCreate bench /SERVER:{GATEWAY_OUTER}:443 /HUB:bench /USERNAME:client /NICNAME:se
AccountPasswordSet bench /PASSWORD:bench /TYPE:standard
AccountDetailSet bench {_DETAILS}
AccountConnect bench
"""
# The daemons keep state where their packages put it: each run gets empty directories that only it sees. The packages
# leave the making of some of them to systemd.
_PRIVATE = (
    "for at in /run /var/lib /var/log; do mount -t tmpfs tmpfs $at && mkdir $at/softether || exit 1; done;"
    " exec {program} execsvc"
)


def _daemon(net: Network, role: str, program: str, port: int) -> int:
    pid = net.start(role, "sh", "-c", _PRIVATE.format(program=program), log=f"{program}.log")
    net.wait(pid, lambda: f":{port} " in net.call(role, "ss", "-tln"), f"{program} to listen")
    return pid


def _administer(net: Network, role: str, at: list[str], commands: str) -> None:
    file = net.directory / f"softether-{role}.txt"
    file.touch(mode=0o600)
    file.write_text(commands)
    net.call(role, "vpncmd", *at, f"/IN:{file}")


def _is_up(net: Network) -> bool:
    return "Session Established" in net.call(
        "client", "vpncmd", "localhost", "/CLIENT", "/CMD", "AccountStatusGet", "bench", check=False
    )


@contextlib.contextmanager
def softether(net: Network) -> Iterator[Path]:
    server = _daemon(net, "gateway", "vpnserver", 443)
    client = None
    try:
        _administer(net, "gateway", ["localhost:443", "/SERVER"], _HUB)
        client = _daemon(net, "client", "vpnclient", 9931)
        _administer(net, "client", ["localhost", "/CLIENT"], _ACCOUNT)
        net.wait(client, lambda: _is_up(net), "SoftEther's session")
        for role, device, address in (("gateway", "tap_se", "10.8.5.1/24"), ("client", "vpn_se", "10.8.5.2/24")):
            net.call(role, "ip", "addr", "add", address, "dev", device)
        net.call("client", "ip", "route", "add", "10.9.0.0/24", "via", "10.8.5.1")
        yield Path(SERVER_IPV4, [server])
    finally:
        if client is not None:
            net.stop(client)
        net.stop(server)
