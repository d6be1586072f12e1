"""Handshakes and tunnels set up, beside the TLS library's own handshakes (gateway/examples/handshakes.rs)."""

from __future__ import annotations

import json

from benchmarks.network import Network
from benchmarks.programs import example

TUNNELS = 1000


def handshakes(net: Network, wanted: frozenset[str], seconds: float) -> dict[str, float]:
    """All figures come from one process, in turns: full mutual TLS 1.3 handshakes."""
    found = json.loads(net.call("gateway", example("handshakes"), "1", str(TUNNELS)))
    return {
        "handshakes": found["gateway_handshakes_per_cpu_second"],
        "tunnels": found["gateway_tunnels_per_cpu_second"],
        "known_tunnels": found["gateway_known_tunnels_per_cpu_second"],
        "library_handshakes": found["library_handshakes_per_cpu_second"],
        "same_cipher": found["same_cipher_handshakes_per_cpu_second"],
    }
