"""wireguard-go: the current version from the Go module proxy where Go is installed, Debian's otherwise."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path as FilePath

from benchmarks.network import GATEWAY_OUTER, SERVER_IPV4, Network
from benchmarks.peers import Path
from benchmarks.programs import debian_version

VERSION = "v0.0.0-20260522210424-ecfc5a8d5446"
BUILD = FilePath("build/bench-tools")


def program() -> str:
    """The program to run, built on first use.

    Raises:
        RuntimeError: neither Go nor Debian's package is there.
    """
    built = (BUILD / "wireguard").resolve()
    if built.exists():
        return str(built)
    if shutil.which("go"):
        subprocess.run(
            ["go", "install", f"golang.zx2c4.com/wireguard@{VERSION}"],
            check=True, timeout=600, env={**os.environ, "GOBIN": str(BUILD.resolve()), "GOFLAGS": "-mod=mod"},
        )  # fmt: skip
        return str(built)
    debian = shutil.which("wireguard-go")
    if debian is None:
        raise RuntimeError("wireguard-go is not installed: apt-get install wireguard-go, or install Go")
    return debian


def version() -> str:
    """Of the program that `program` would give."""
    if (BUILD / "wireguard").exists() or shutil.which("go"):
        return f"{VERSION} (built with Go)"
    return debian_version("wireguard-go")


def _key(net: Network, name: str) -> str:
    """Makes a key pair and returns the public key."""
    private = net.call("client", "wg", "genkey")
    file = net.directory / f"{name}.wg"
    file.touch(mode=0o600)
    file.write_text(private)
    done = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


@contextlib.contextmanager
def wireguard_go(net: Network) -> Iterator[Path]:
    binary = program()
    pids = {}
    keys = {role: _key(net, role) for role in ("client", "gateway")}
    devices = {"client": f"wgc{net.run}", "gateway": f"wgg{net.run}"}
    try:
        for role, device in devices.items():
            pids[role] = net.start(
                role, binary, "--foreground", device, log=f"wireguard-{role}.log", environment={"LOG_LEVEL": "error"}
            )
            control = FilePath(f"/var/run/wireguard/{device}.sock")
            net.wait(pids[role], control.exists, "wireguard-go's control socket")
        net.call("gateway", "wg", "set", devices["gateway"], "listen-port", "51820", "private-key", "gateway.wg",
                 "peer", keys["client"], "allowed-ips", "10.8.0.2/32")  # fmt: skip
        net.call("client", "wg", "set", devices["client"], "private-key", "client.wg", "peer", keys["gateway"],
                 "endpoint", f"{GATEWAY_OUTER}:51820", "allowed-ips", "10.8.0.0/24,10.9.0.0/24")  # fmt: skip
        for role, address in (("gateway", "10.8.0.1/24"), ("client", "10.8.0.2/24")):
            net.call(role, "ip", "addr", "add", address, "dev", devices[role])
            net.call(role, "ip", "link", "set", devices[role], "mtu", "1420", "up")
        net.call("client", "ip", "route", "add", "10.9.0.0/24", "dev", devices["client"])
        yield Path(SERVER_IPV4, [pids["gateway"]])
    finally:
        for pid in pids.values():
            net.stop(pid)
