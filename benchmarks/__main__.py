"""`python -m benchmarks`: every path in one run, rounds interleaved so that a noisy minute hits all alike."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report
from benchmarks.measure import measure
from benchmarks.network import network
from benchmarks.peers import Opener
from benchmarks.peers.nat64_alone import nat64_alone, tayga
from benchmarks.peers.ocserv import ocserv
from benchmarks.peers.openvpn import openvpn_tcp, openvpn_udp
from benchmarks.peers.plain import plain
from benchmarks.peers.portico_tunnel import (
    portico,
    portico_foreign,
    portico_nat64,
    portico_standard,
    portico_standard_nat64,
)
from benchmarks.peers.softether import softether
from benchmarks.peers.wireguard_go import wireguard_go

PATHS: dict[str, Opener] = {
    "plain": plain,
    "portico": portico,
    "portico, NAT64": portico_nat64,
    "portico, standard peer": portico_standard,
    "portico, standard peer, NAT64": portico_standard_nat64,
    "portico, one packet per record": portico_foreign,
    "wireguard-go": wireguard_go,
    "SoftEther": softether,
    "ocserv + openconnect, TLS": ocserv,
    "OpenVPN, TCP": openvpn_tcp,
    "OpenVPN, UDP": openvpn_udp,
    "NAT64 alone": nat64_alone,
    "TAYGA": tayga,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all paths; medians are reported")
    parser.add_argument("--seconds", type=int, default=3, help="length of each load")
    parser.add_argument("--only", action="append", choices=list(PATHS), help="just this path (repeatable)")
    parser.add_argument("--document", type=Path, default=Path("docs/performance.md"), help="where the table goes")
    parser.add_argument("--no-write", action="store_true", help="print the table, write nothing")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the benchmark builds network namespaces: run it as root (sudo make bench)", file=sys.stderr)
        return 5
    names = options.only or list(PATHS)
    results: report.Results = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as directory, network(Path(directory)) as net:
        for turn in range(options.rounds):
            for name in names:
                print(f"[{turn + 1}/{options.rounds}] {name} ...", end=" ", flush=True)
                with PATHS[name](net) as path:
                    figures = measure(net, path.target, path.gateway_pids, options.seconds)
                results[name].append(figures)
                print(f"up {figures.up:.2f} down {figures.down:.2f} Gbit/s, ping {figures.ping:.2f} ms", flush=True)
    print("\n" + report.table(results))
    if options.json:
        rows = {name: [asdict(one) for one in rounds] for name, rounds in results.items()}
        options.json.write_text(json.dumps(rows, indent=1))
    if not options.no_write:
        kernel = platform.release().split("-")[0]
        method = (
            f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores, Linux {kernel}: "
            f"medians of {options.rounds} rounds, loads of {options.seconds} s; "
            "the ratio to plain routing of the same run in brackets."
        )
        report.write(results, options.document, method)
        print(f"written to {options.document}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
