"""Our own client end: when it dials again, and its way through HTTP proxies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import CLIENT, HOST, Authority, Client, Server, udp, wait_for
from tests.peers.iphttps_peer import Peer, Refused
from tests.timely import Within

from .conftest import TARGET, Site, read_status

REFUSED, HOST_NOT_FOUND, TIMED_OUT = 0x274D, 0x2AF9, 0x274C
USER, PASSWORD = "laptop", "open-sesame"


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def waiting(client: Client) -> dict[str, Any]:
    """The status once an attempt has failed."""

    def failed() -> dict[str, Any] | None:
        status = read_status(client)
        # 0 is an attempt about to begin.
        return status if status["error"] and status["next_attempt_in"] else None

    found = wait_for(failed, "a failed attempt")
    assert found is not None
    return found


def within(seconds: float, exact: float) -> bool:
    """A wait may be up to a tenth shorter than the schedule says, so that clients do not return in step."""
    return exact * 0.9 - 1.5 <= seconds <= exact


def test_10_the_first_failure_waits_thirty_seconds(
    make_site: Callable[..., Site], start_client: Callable[..., Client]
) -> None:
    site = make_site()
    port = unused_port()
    client = start_client(site.server, url=f"https://da.example.net:{port}/IPHTTPS")
    status = waiting(client)
    assert (status["state"], status["error"]["code"]) == ("link_down", REFUSED)
    assert status["error"]["text"].startswith("Failed to connect to the IPHTTPS server. Waiting to reconnect")
    assert within(status["next_attempt_in"], 30)
    later = wait_for(
        lambda: (now := read_status(client))["next_attempt_in"] < status["next_attempt_in"] and now, "the countdown", 3
    )
    assert later["next_attempt_in"] > 20
    states = [json.loads(text) for text in client.tunnel.next_events(0.0)]
    assert states[-1]["state"] == "link_down" and within(states[-1]["next_attempt_in"], 30)


def test_10_a_network_change_dials_at_once(make_site: Callable[..., Site], start_client: Callable[..., Client]) -> None:
    """And forgets the failures: the wait after the next one is the first again."""
    site = make_site()
    port = unused_port()
    client = start_client(site.server, url=f"https://da.example.net:{port}/IPHTTPS")
    waiting(client)
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(30.0)
        for _ in range(2):
            client.tunnel.redial()
            connection, _ = listener.accept()
            connection.close()
            assert within(waiting(client)["next_attempt_in"], 30)


def test_10_a_full_server_is_not_hammered(make_site: Callable[..., Site], start_client: Callable[..., Client]) -> None:
    """TLS succeeded but the link never came up: that is a failure, with the wait of one."""
    site = make_site(max_sessions=1)
    site.join("first")
    client = start_client(site.server)
    status = waiting(client)
    assert (status["state"], within(status["next_attempt_in"], 30)) == ("link_down", True)
    assert site.refused() == ["table_full"]
    time.sleep(0.5)
    assert site.server.stats()["gateway"]["refused"] == 1


@pytest.mark.parametrize("how", ["disconnected", "reset"])
def test_10_a_lost_link_is_redialled_at_once(
    make_site: Callable[..., Site], start_client: Callable[..., Client], how: str
) -> None:
    site = make_site()
    with Relay(site.port) as relay:
        client = start_client(site.server, url=f"https://da.example.net:{relay.port}/IPHTTPS")
        client.wait_up()
        before = site.server.sessions()[0]["session"]
        with Within(1.5):
            if how == "reset":
                relay.reset()
            else:
                site.server.gateway.disconnect([before])
            wait_for(lambda: [s for s in site.server.sessions() if s["session"] > before], "a new session")
            client.wait_up()
        client.tun.send(udp(CLIENT, HOST, b"again"))
        wait_for(lambda: site.intranet.heard(lambda packet: packet.payload[8:] == b"again"), "a packet")


def test_10_a_server_that_comes_back_is_found(
    make_site: Callable[..., Site], start_client: Callable[..., Client]
) -> None:
    """Lost, redialled at once, refused: from then on the schedule counts."""
    site = make_site()
    relay = Relay(site.port)
    client = start_client(site.server, url=f"https://da.example.net:{relay.port}/IPHTTPS")
    client.wait_up()
    relay.close()
    status = waiting(client)
    assert (status["error"]["code"], within(status["next_attempt_in"], 30)) == (REFUSED, True)
    with Relay(site.port, relay.port):
        client.tunnel.redial()
        client.wait_up()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 503 x\r\n\r\n", b"\x15\x03\x03\0\2\2\x28", None])
def test_10_every_kind_of_failure_has_a_name_and_a_wait(
    make_site: Callable[..., Site], start_client: Callable[..., Client], answer: bytes | None
) -> None:
    site = make_site()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://da.example.net:{listener.getsockname()[1]}/IPHTTPS"
        client = start_client(site.server, url=url, connect_timeout=1.0)
        connection, _ = listener.accept()
        with connection:
            if answer is not None:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
            status = waiting(client)
        if answer is None:
            assert status["error"]["code"] == TIMED_OUT
        assert status["state"] == "link_down" and status["error"]["code"] != 0
        assert within(status["next_attempt_in"], 30)


class Relay:
    """Passes bytes on, until somebody cuts the line."""

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self.listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._copy, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def reset(self) -> None:
        """Cuts all connections with a reset."""
        ends, self._ends = self._ends, []
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            # Wakes the thread that reads, so that the descriptor can close.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)
        time.sleep(0.05)
        for end in ends:
            end.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Proxy:
    port: int
    log: Path


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """tinyproxy, which wants a user name and a password."""
    program = shutil.which("tinyproxy")
    if program is None:
        pytest.skip("tinyproxy is not installed")
    port, log = unused_port(), tmp_path / "tinyproxy.log"
    log.touch()
    settings = tmp_path / "tinyproxy.conf"
    settings.write_text(
        f'Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth {USER} {PASSWORD}\nLogFile "{log}"\n'
        "LogLevel Info\nTimeout 60\nMaxClients 20\n"
    )
    # Started as root it would only warn that it stays root; the environment is not its business.
    process = subprocess.Popen(
        [program, "-d", "-c", str(settings)],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, "the proxy")
    yield Proxy(port, log)
    process.terminate()
    process.wait(5)


def named_localhost(authority: Authority) -> Callable[[dict[str, Any]], None]:
    """The proxy looks the name up itself, so the server has one that it finds."""

    def change(config: dict[str, Any]) -> None:
        config["tls"]["certificate_chain"], config["tls"]["private_key"], _ = authority.issue("localhost")

    return change


def through(proxy: Proxy, server: Server, user: str | None = USER, password: str | None = PASSWORD) -> dict[str, Any]:
    return {
        "url": f"https://localhost:{server.port}/IPHTTPS",
        "addresses": [],
        "proxy": {"host": "127.0.0.1", "port": proxy.port, "user": user, "password": password},
    }


def test_16_connect_proxy(
    make_site: Callable[..., Site], start_client: Callable[..., Client], authority: Authority, proxy: Proxy
) -> None:
    site = make_site(change=named_localhost(authority))
    client = start_client(site.server, **through(proxy, site.server))
    client.wait_up()
    assert read_status(client)["peer"] == f"127.0.0.1:{proxy.port}"
    assert f"CONNECT localhost:{site.port} HTTP/1.1" in proxy.log.read_text()
    client.tun.send(udp(CLIENT, HOST, b"through the proxy"))
    wait_for(lambda: site.intranet.heard(lambda packet: packet.payload[8:] == b"through the proxy"), "a packet")
    site.intranet.send(udp(HOST, CLIENT, bytes(1200)))
    assert client.tun.packet()[48:] == bytes(1200)


@pytest.mark.parametrize("credentials", [(USER, "wrong"), ("nobody", PASSWORD), (None, None)], ids=str)
def test_16_wrong_credentials_are_told(
    make_site: Callable[..., Site],
    start_client: Callable[..., Client],
    authority: Authority,
    proxy: Proxy,
    credentials: tuple[str | None, str | None],
) -> None:
    site = make_site(change=named_localhost(authority))
    client = start_client(site.server, **through(proxy, site.server, *credentials))
    status = waiting(client)
    assert status["error"]["code"] == 407
    assert "proxy" in status["error"]["text"]
    assert within(status["next_attempt_in"], 30)
    assert site.server.stats()["gateway"]["accepted"] == 0


def test_16_a_proxy_that_is_not_there(make_site: Callable[..., Site], start_client: Callable[..., Client]) -> None:
    site = make_site()
    client = start_client(site.server, **through(Proxy(unused_port(), Path()), site.server))
    assert waiting(client)["error"]["code"] == REFUSED


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", 407),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", 403),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 502),
        (b"220 smtp.example.net ESMTP\r\n", 0x2F78),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0x2F78),
        (b"HTTP/1.1 200 " + b"x" * 9000, 0x2F78),
        (b"", 0x2F78),
    ],
    ids=["407", "403", "502", "no HTTP", "talks before TLS", "endless head", "hangs up"],
)
def test_16_every_answer_of_a_proxy_has_a_name(
    make_site: Callable[..., Site], start_client: Callable[..., Client], answer: bytes, code: int
) -> None:
    site = make_site()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        changes = through(Proxy(listener.getsockname()[1], Path()), site.server)
        client = start_client(site.server, **changes)
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            assert request.startswith(f"CONNECT localhost:{site.port} HTTP/1.1\r\n".encode())
            assert b"Proxy-Authorization: Basic bGFwdG9wOm9wZW4tc2VzYW1l\r\n" in request
            connection.sendall(answer)
            # A client that has read enough to hang up may already have done so.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            status = waiting(client)
    assert status["error"]["code"] == code


def test_16_the_independent_peer_comes_through_the_same_proxy(
    make_site: Callable[..., Site], authority: Authority, proxy: Proxy
) -> None:
    site = make_site(change=named_localhost(authority))

    def connect(password: str) -> Peer:
        context = site.context("peer")
        context.check_hostname = False
        return Peer.connect(
            "127.0.0.1", site.port, context=context, proxy=("127.0.0.1", proxy.port), proxy_credentials=(USER, password)
        )

    with pytest.raises(Refused):
        connect("wrong")
    with connect(PASSWORD) as peer:
        peer.open()
        peer.configure(wait=0.05)
        peer.ping(TARGET)
