"""DNS64 beside Unbound's dns64 module: answers from the cache, each server on a core of its own.

dnsperf has another core. It can be the slower one, so processor time of the server for each answer is measured too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator

from benchmarks.cpu import cpu_seconds
from benchmarks.network import Network
from benchmarks.programs import example

PREFIX = "fd00:64::/96"
NAMES = 1000
UPSTREAM, DNS64_PORT, UNBOUND_PORT = 5301, 5302, 5303
WARMING = 1.0

_NAMED = """\
controls {{}};
options {{ directory "{directory}"; pid-file "{directory}/named.pid"; session-keyfile "{directory}/session.key";
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; }};
zone "corp.example.net" {{ type primary; file "{directory}/corp.zone"; }};
"""
_UNBOUND = f"""\
server:
 chroot: ""
 username: ""
 directory: "{{directory}}"
 pidfile: "{{directory}}/unbound.pid"
 interface: 127.0.0.1@{UNBOUND_PORT}
 do-not-query-localhost: no
 module-config: "dns64 iterator"
 dns64-prefix: {PREFIX}
 num-threads: 1
 use-syslog: no
 local-zone: "example.net." nodefault
 domain-insecure: "example.net"
forward-zone:
 name: "corp.example.net."
 forward-addr: 127.0.0.1@{UPSTREAM}
"""
_DNS64 = {
    "prefix": PREFIX,
    "queries_per_second_per_client": 0,  # dnsperf is one client
    "upstreams": [{"suffix": "", "servers": [f"127.0.0.1:{UPSTREAM}"]}],
}

Server = Callable[[Network], int]


def _zone() -> str:
    hosts = "".join(f"h{one} A 10.2.{one // 250}.{one % 250 + 1}\n" for one in range(NAMES))
    return f"$TTL 3600\n@ IN SOA ns root 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n{hosts}"


@contextlib.contextmanager
def _upstream(net: Network) -> Iterator[None]:
    """The corporate DNS: names with IPv4 addresses only."""
    (net.directory / "corp.zone").write_text(_zone())
    file = net.directory / "named.conf"
    file.write_text(_NAMED.format(directory=net.directory, port=UPSTREAM))
    (net.directory / "questions.txt").write_text("".join(f"h{one}.corp.example.net AAAA\n" for one in range(NAMES)))
    server = net.start("gateway", "named", "-f", "-n", "1", "-c", str(file), log="named.log")
    try:
        _wait_for(net, server, UPSTREAM)
        yield
    finally:
        net.stop(server)


def _wait_for(net: Network, pid: int, port: int) -> None:
    net.wait(pid, lambda: f"127.0.0.1:{port} " in net.call("gateway", "ss", "-uln"), f"port {port}")


def _pinned(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def _unbound(net: Network) -> int:
    file = net.directory / "unbound.conf"
    file.write_text(_UNBOUND.format(directory=net.directory))
    pid = net.start("gateway", *_pinned(_cores()[0], "unbound", "-d", "-c", str(file)), log="unbound.log")
    _wait_for(net, pid, UNBOUND_PORT)
    return pid


def _dns64(net: Network) -> int:
    file = net.directory / "dns64.json"
    file.write_text(json.dumps(_DNS64))
    # The program ends with its standard input, which must therefore stay open.
    program = ["sh", "-c", 'sleep infinity | exec "$0" "$@"', example("dns64"), str(file), f"127.0.0.1:{DNS64_PORT}"]
    pid = net.start("gateway", *_pinned(_cores()[0], *program), log="dns64.log")
    _wait_for(net, pid, DNS64_PORT)
    return pid


def _cores() -> list[int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("a server and dnsperf need a core each, and there is one")
    return cores


def _ask(net: Network, port: int, seconds: float) -> tuple[float, int]:
    """Answers a second and answers."""
    output = net.call("gateway", *_pinned(
        _cores()[-1], "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(net.directory / "questions.txt"),
        "-l", f"{seconds:g}", "-c", "8", "-q", "100",
    ))  # fmt: skip
    rate = re.search(r"Queries per second:\s+([\d.]+)", output)
    answers = re.search(r"Response codes:\s+NOERROR (\d+) \(100\.00%\)", output)
    if rate is None or answers is None:
        raise RuntimeError(f"dnsperf did not get good answers only: {output[-600:]}")
    return float(rate[1]), int(answers[1])


def _check(net: Network, port: int) -> None:
    """One answer must be the synthesized one."""
    answer = net.call("gateway", "dig", "+short", "@127.0.0.1", "-p", str(port), "h1.corp.example.net", "AAAA").strip()
    if answer != "fd00:64::a02:2":
        raise RuntimeError(f"port {port} answers {answer!r} instead of a synthesized address")


def _measure(net: Network, server: Server, port: int, seconds: float) -> dict[str, float]:
    with _upstream(net):
        pid = server(net)
        try:
            _check(net, port)
            _ask(net, port, WARMING)
            before = cpu_seconds([pid])
            rate, answers = _ask(net, port, seconds)
            return {"answers": rate, "answers_per_core": answers / (cpu_seconds([pid]) - before)}
        finally:
            net.stop(pid)


def dns64(net: Network, wanted: frozenset[str], seconds: float) -> dict[str, float]:
    """Our DNS64, from the cache."""
    return _measure(net, _dns64, DNS64_PORT, seconds)


def unbound(net: Network, wanted: frozenset[str], seconds: float) -> dict[str, float]:
    """Unbound with `dns64 iterator`, one thread, from the cache."""
    return _measure(net, _unbound, UNBOUND_PORT, seconds)


def unbound_version() -> str:
    """As the program says it."""
    done = subprocess.run(["unbound", "-V"], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.splitlines()[0] if done.stdout else "not installed"
