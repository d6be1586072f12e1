"""A network that lets nothing out but its HTTP proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import APP4, APP6, SERVER_ADDRESS, time_until

_CONFIGURATION = """\
Port 3128
Listen 192.168.1.1
Timeout 600
MaxClients 50
ConnectPort 443
Allow 192.168.1.0/24
LogLevel Connect
{authentication}
"""

_ONLY_THE_PROXY = """\
table inet strict {
    chain through {
        type filter hook forward priority -10; policy drop;
        udp dport 53 accept
        udp sport 53 accept
    }
}
"""


@pytest.fixture(params=["", "BasicAuth someone secret"], ids=["open", "with-password"])
def proxy(request: pytest.FixtureRequest, lab: Lab, client: Host) -> Iterator[str]:
    """A proxy on the home router, and no other way out; its URL."""
    router = lab.host("nat1")
    router.write("/etc/tinyproxy-lab.conf", _CONFIGURATION.format(authentication=request.param))
    router.start_service("tinyproxy", ["tinyproxy", "-d", "-c", "/etc/tinyproxy-lab.conf"])
    wait.until("the proxy", lambda: router.output("ss", "-Hltn", "sport = :3128"))
    router.run("nft", "-f", "-", input_text=_ONLY_THE_PROXY)
    password = "someone:secret@" if request.param else ""
    try:
        yield f"http://{password}192.168.1.1:3128"
    finally:
        router.run("nft", "delete", "table", "inet", "strict")
        router.stop_service("tinyproxy")


def test_client_connects_through_the_proxy(lab: Lab, client: Host, proxy: str) -> None:
    assert client.run("ping", "-c", "1", "-W", "1", SERVER_ADDRESS, check=False).returncode != 0
    client.write("/etc/portico-proxy", proxy + "\n", 0o600)
    client.run("portico", "client", "settings", "--proxy-file", "/etc/portico-proxy")
    for name in (APP4, APP6):
        time_until("the intranet through the proxy", client, name)
    assert "CONNECT da.example.net:443" in lab.host("nat1").log("tinyproxy").read_text() or (
        f"CONNECT {SERVER_ADDRESS}:443" in lab.host("nat1").log("tinyproxy").read_text()
    )


def test_client_without_the_proxy_stays_outside(lab: Lab, client: Host, proxy: str) -> None:
    client.run("portico", "client", "settings", "--proxy", "none")
    client.run("portico", "client", "redial")
    assert client.run("curl", "-sf", "--max-time", "2", f"http://{APP4}/", check=False).returncode != 0
