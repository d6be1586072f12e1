"""Memory of the gateway's process for each tunnel through which nothing passes."""

from __future__ import annotations

from benchmarks.cpu import anonymous_bytes
from benchmarks.network import CLIENT_OUTER, GATEWAY_OUTER, PREFIX, Network
from benchmarks.peers.portico_tunnel import server
from tests.peers.crowd import Credentials, Crowd

# Those before the first count pay for what the process allocates once.
FIRST, TUNNELS = 200, 2000


def idle(net: Network, wanted: frozenset[str], seconds: float) -> dict[str, float]:
    """Tunnels are set up as clients do it (certificates, address, one echo), then left alone."""
    with server(net) as pid:
        files = {name: str(net.directory / name) for name in ("ca.pem", "client.pem", "client.key")}
        credentials = Credentials(files["ca.pem"], files["client.pem"], files["client.key"])
        with Crowd(
            net.namespace("client"), net.directory, [f"{GATEWAY_OUTER}:443"], credentials, f"{PREFIX}:1000::1",
            server_name="server.example.net", sources=[CLIENT_OUTER],
        ) as crowd:  # fmt: skip
            crowd.connect(FIRST)
            crowd.wait(FIRST)
            before = anonymous_bytes([pid])
            crowd.connect(TUNNELS)
            crowd.wait(FIRST + TUNNELS)
            return {"tunnel_kib": (anonymous_bytes([pid]) - before) / TUNNELS / 1024}
