"""A gigabyte each way, byte for byte."""

from __future__ import annotations

import time

import pytest

from portico.lab import deployment
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.services import nginx
from tests.lab.helpers import ECHO_PORT, echo_service

GIGABYTE = 1_000_000_000


@pytest.fixture(scope="module")
def checksum(lab: Lab) -> str:
    """The same gigabyte on both intranet servers and on the client."""
    expected = nginx.put_large_file(lab.host("app4"), GIGABYTE)
    source = lab.host("app4").disk / "var/lib/portico-lab-web" / nginx.LARGE
    for target in (
        lab.host("app6").disk / "var/lib/portico-lab-web" / nginx.LARGE,
        lab.host("client1").disk / "var/lib" / nginx.LARGE,
    ):
        target.hardlink_to(source)
    return expected


@pytest.mark.parametrize("server", ["app4", "app6"])
def test_download_has_the_right_checksum(client: Host, checksum: str, server: str) -> None:
    started = time.monotonic()
    got = client.output(
        "sh", "-c", f"curl -sSf http://{server}.corp.example.net/{nginx.LARGE} | sha256sum", timeout=240.0
    )
    assert got.split()[0] == checksum
    print(f"{server}: {GIGABYTE * 8 / (time.monotonic() - started) / 1e6:.0f} Mbit/s down")


@pytest.mark.parametrize(("server", "address"), [("app4", "10.0.0.4"), ("app6", "fd7c:1a2b:3c4d:1::6")])
def test_upload_has_the_right_checksum(lab: Lab, client: Host, checksum: str, server: str, address: str) -> None:
    with echo_service(lab.host(server), address):
        started = time.monotonic()
        got = client.output(
            PYTHON,
            "-c",
            "import socket,sys\n"
            "s=socket.create_connection((sys.argv[1],int(sys.argv[2])),10);s.settimeout(120)\n"
            "s.sendfile(open(sys.argv[3],'rb'));s.shutdown(socket.SHUT_WR);print(s.recv(100).decode())",
            f"{server}.corp.example.net",
            str(ECHO_PORT + 1),
            f"/var/lib/{nginx.LARGE}",
            timeout=240.0,
        )
    assert got == checksum
    print(f"{server}: {GIGABYTE * 8 / (time.monotonic() - started) / 1e6:.0f} Mbit/s up")


def test_intranet_downloads_from_the_client(lab: Lab, client: Host, mgmt: Host, checksum: str) -> None:
    client.run("mkdir", "-p", "/var/lib/share")
    (client.disk / "var/lib/share" / nginx.LARGE).hardlink_to(client.disk / "var/lib" / nginx.LARGE)
    client.start_service(
        "share", ["python3", "-m", "http.server", "--bind", "::", "--directory", "/var/lib/share", "8000"]
    )
    try:
        address = deployment.tunnel_address(client)
        got = mgmt.output(
            "sh",
            "-c",
            f"curl -sSf --retry 10 --retry-connrefused --retry-delay 1 http://[{address}]:8000/{nginx.LARGE}"
            " | sha256sum",
            timeout=240.0,
        )
        assert got.split()[0] == checksum
    finally:
        client.stop_service("share")
