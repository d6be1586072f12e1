"""ocserv with openconnect over TLS and over DTLS (the AnyConnect protocol), certificates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.network import GATEWAY_OUTER, SERVER_IPV4, Network
from benchmarks.peers import Path, credentials

_CONFIGURATION = """\
auth = "certificate"
tcp-port = 4443
udp-port = {udp_port}
socket-file = {directory}/ocserv.sock
pid-file = {directory}/ocserv.pid
server-cert = {directory}/server.pem
server-key = {directory}/server.key
ca-cert = {directory}/ca.pem
cert-user-oid = 2.5.4.3
device = ocserv
ipv4-network = 10.6.0.0/24
route = 10.9.0.0/24
isolate-workers = false
max-clients = 16
max-same-clients = 4
try-mtu-discovery = false
use-occtl = false
log-level = 1
run-as-user = root
run-as-group = root
"""


@contextlib.contextmanager
def _ocserv(net: Network, dtls: bool) -> Iterator[Path]:
    credentials.make(net.directory)
    (net.directory / "ocserv.conf").write_text(
        _CONFIGURATION.format(directory=net.directory, udp_port=4443 if dtls else 0)
    )
    server = net.start("gateway", "ocserv", "-c", "ocserv.conf", "-f", log="ocserv.log")
    client = None
    try:
        net.wait(server, lambda: ":4443" in net.call("gateway", "ss", "-tln"), "ocserv to listen")
        client = net.start(
            "client", "openconnect", "--protocol=anyconnect", "--interface=oc-client", "--cafile=ca.pem",
            "--certificate=client.pem", "--sslkey=client.key", *([] if dtls else ["--no-dtls"]), f"https://{GATEWAY_OUTER}:4443",
            log="openconnect.log",
        )  # fmt: skip
        net.wait(client, lambda: net.routes_through("oc-client", SERVER_IPV4), "openconnect's route")
        if dtls:
            log = net.directory / "openconnect.log"
            net.wait(client, lambda: "Established DTLS" in log.read_text(), "DTLS")
        yield Path(SERVER_IPV4, [server])
    finally:
        if client is not None:
            net.stop(client)
        net.stop(server)


def ocserv(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _ocserv(net, dtls=False)


def ocserv_dtls(net: Network) -> contextlib.AbstractContextManager[Path]:
    return _ocserv(net, dtls=True)
