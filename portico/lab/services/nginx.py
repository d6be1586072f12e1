"""nginx: says which host answered and which client address it saw, serves a large file, takes uploads."""

from __future__ import annotations

import hashlib
import os
import pwd
import subprocess
from pathlib import Path

from portico.lab import wait
from portico.lab.hosts import Host, LabFailure
from portico.lab.topology import Topology

SERVICE = "nginx"
LARGE = "large.bin"
_FILES = "/var/lib/portico-lab-web"

_CONFIGURATION = """\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
    access_log /var/log/nginx/access.log;
    default_type application/octet-stream;
    sendfile on;
    keepalive_timeout 30s;
    client_max_body_size 0;
    client_body_temp_path {files}/upload/parts;
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        root {files};
        location = / {{
            default_type text/plain;
            return 200 "{name} answers, and sees you as $remote_addr\\n";
        }}
        location /upload/ {{ dav_methods PUT DELETE; }}
    }}
}}
"""


def web_server(host: Host, topology: Topology) -> None:
    """Starts nginx on port 80 over IPv4 and IPv6."""
    directory = _directory(host)
    upload = directory / "upload"
    upload.mkdir(parents=True, exist_ok=True)
    account = pwd.getpwnam("www-data")
    os.chown(upload, account.pw_uid, account.pw_gid)
    host.write("/etc/nginx/lab.conf", _CONFIGURATION.format(name=host.name, files=_FILES))
    host.start_service(SERVICE, ["nginx", "-c", "/etc/nginx/lab.conf", "-g", "daemon off;"])
    wait.until(
        f"nginx on {host.name} to answer",
        lambda: host.run("curl", "-sf", "--max-time", "2", "http://localhost/", check=False).stdout,
        timeout=10.0,
        evidence=lambda: host.log_tail(SERVICE),
    )


def put_large_file(host: Host, size: int, name: str = LARGE) -> str:
    """Makes a file of `size` bytes that nothing compresses, served as /NAME; returns its SHA-256."""
    path = _directory(host) / name
    generator = subprocess.run(
        ["openssl", "enc", "-aes-128-ctr", "-nosalt", "-K", "00" * 16, "-iv", f"{size:032x}"],
        stdin=_zeros(size),
        stdout=path.open("wb"),
        check=False,
    )
    if generator.returncode != 0 or path.stat().st_size != size:
        raise LabFailure(f"The large file for {host.name} cannot be made", why=f"{path}: disk full?")
    path.chmod(0o644)
    return checksum(path)


def uploaded(host: Host, name: str) -> Path:
    """Where a file that was PUT to /upload/NAME lies on the machine."""
    return _directory(host) / "upload" / name


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _directory(host: Host) -> Path:
    return host.disk / _FILES.lstrip("/")


def _zeros(size: int) -> int:
    """A descriptor of a sparse file with `size` zero bytes."""
    descriptor = os.memfd_create("zeros")
    os.truncate(descriptor, size)
    return descriptor
