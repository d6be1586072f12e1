"""A certificate authority, a server and a client certificate for the peers that need them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.network import GATEWAY_OUTER


def make(directory: Path) -> None:
    """Writes ca.pem, server.pem, server.key, client.pem and client.key (ECDSA P-256) once."""
    if (directory / "client.pem").exists():
        return
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl(directory, "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30",
             "-subj", "/CN=bench ca")  # fmt: skip
    for name in ("server", "client"):
        names = f"subjectAltName=DNS:{name}.example.net,IP:{GATEWAY_OUTER}"
        _openssl(directory, "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                 "-subj", f"/CN={name}.example.net", "-addext", names)  # fmt: skip
        _openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                 "-CAcreateserial", "-days", "30", "-out", f"{name}.pem", "-copy_extensions", "copyall")  # fmt: skip


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory, timeout=30)
