"""What the API and the control sockets do with requests and files that they do not want."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from portico.client import control as client_control
from portico.client.identity import ClientFiles
from portico.client.service import run as run_client
from portico.errors import Conflict, PorticoError
from portico.files import exclusive
from portico.management.api import serve as api_serve
from portico.management.api.app import create_app
from portico.management.api.limit import MAXIMUM_BODY
from portico.server.control import bound_log
from portico.settings.document import dump, load_data
from tests.unit.server.test_last_good_state import DATA, Server


def with_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Callable[[httpx.AsyncClient, Server], Any]) -> None:
    async def run() -> None:
        server = Server(tmp_path / "state", monkeypatch)
        monkeypatch.setattr(server.agent.platform.credentials, "secrets", lambda *_: None)
        transport = httpx.ASGITransport(app=create_app(server.agent), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://portico") as http:
            await body(http, server)
        await server.agent.stop()

    asyncio.run(run())


def yaml(**changes: Any) -> str:
    return dump(load_data({**DATA, **changes}))


def test_requests_that_are_none_are_refused_in_one_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(http: httpx.AsyncClient, _server: Server) -> None:
        json = {"content-type": "application/json"}
        too_large = b'{"yaml": "' + b"x" * MAXIMUM_BODY + b'"}'
        cases: tuple[tuple[str, str, dict[str, Any], int], ...] = (
            ("POST", "/v1/settings", {"content": too_large, "headers": json}, 413),
            ("POST", "/v1/settings", {"content": b"not JSON", "headers": json}, 400),
            ("POST", "/v1/settings", {"content": b"\xff\xfe\x00", "headers": json}, 400),
            ("POST", "/v1/settings", {"content": b"[" * 200_000, "headers": json}, 400),
            ("POST", "/v1/settings", {"json": []}, 400),
            ("POST", "/v1/settings", {"json": {"yaml": 5}}, 400),
            ("POST", "/v1/settings", {"json": {"yaml": "a: 1", "surprise": True}}, 400),
            ("POST", "/v1/settings", {"json": {"yaml": "a: 1", "expected_revision": "five"}}, 400),
            ("POST", "/v1/settings", {"json": {"yaml": "a: 1", "settings": {}}}, 400),
            ("POST", "/v1/settings", {"json": {"yaml": "x" * (1 << 20) + "x"}}, 400),
            ("POST", "/v1/settings", {"content": b'{"yaml": "a: \\ud800"}', "headers": json}, 400),
            ("POST", "/v1/settings", {"json": {"settings": {"schema_version": 10**30}}}, 422),
            ("POST", "/v1/settings/rollback", {"json": {"revision": 10**30}}, 404),
            ("GET", "/v1/settings?revision=99999999999999999999999", {}, 404),
            ("POST", "/v1/ca/tokens", {"json": {"name": "a" * 100_000}}, 404),
            ("POST", "/v1/ca/tokens", {"json": {"name": "a", "lifetime_seconds": -1}}, 400),
            ("POST", "/v1/revocations", {"json": {"name": 1}}, 400),
            ("POST", "/v1/revocations", {"json": {"serial": "zz", "reason": "?"}}, 400),
            ("DELETE", "/v1/ca/tokens/%00", {}, 404),
        )
        for method, path, arguments, status in cases:
            answer = await http.request(method, path, **arguments)
            told = (method, path, str(arguments)[:80], answer.text[:300])
            assert answer.status_code == status, told
            assert {"code", "what"} <= set(answer.json()["error"]), told

    with_api(tmp_path, monkeypatch, body)


def test_a_body_that_grows_while_it_is_sent_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1 << 20
            assert sent < 4 * MAXIMUM_BODY, "nobody stops reading"
            yield b" " * (1 << 20)

    async def body(http: httpx.AsyncClient, _server: Server) -> None:
        answer = await http.post("/v1/settings", content=endless(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "BODY_TOO_LARGE"

    with_api(tmp_path, monkeypatch, body)


def test_of_two_changes_at_once_one_is_told_what_the_other_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(http: httpx.AsyncClient, server: Server) -> None:
        first = await http.post("/v1/settings", json={"yaml": yaml(), "expected_revision": 0})
        assert first.status_code == 200, first.text
        answers = await asyncio.gather(
            *(
                http.post("/v1/settings", json={"yaml": yaml(ip_https={"port": port}), "expected_revision": 1})
                for port in (8443, 9443)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        (lost,) = [answer.json()["error"] for answer in answers if answer.status_code == 409]
        assert lost["code"] == "SETTINGS_CHANGED"
        assert lost["newest"]["number"] == 2
        (change,) = lost["difference"]["changes"]
        assert change["path"] == "ip_https.port"
        assert server.agent.store().latest().number == 2  # type: ignore[union-attr]

    with_api(tmp_path, monkeypatch, body)


@pytest.mark.parametrize("opens", [api_serve.open_socket, client_control.listen], ids=["server", "client"])
def test_a_control_socket_is_its_owners_and_replaces_a_stale_one(
    opens: Callable[[Path], socket.socket], tmp_path: Path
) -> None:
    path = tmp_path / "run" / "control.sock"
    before = os.umask(0)
    try:
        opens(path).close()
        assert path.exists(), "closing leaves the file, as a killed process does"
        with opens(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with pytest.raises(Conflict) as refused:
                opens(path)
            assert refused.value.resolution
    finally:
        os.umask(before)
    path.unlink()
    path.write_text("no socket")
    opens(path).close()
    path.unlink()
    path.mkdir()
    with pytest.raises(PorticoError, match=r"control\.sock"):
        opens(path)


def test_of_many_agents_that_start_together_one_runs(tmp_path: Path) -> None:
    path, barrier, won, lost = tmp_path / "agent.lock", threading.Barrier(8), [], []
    done = threading.Event()

    def start(number: int) -> None:
        barrier.wait()
        try:
            with exclusive(path, what="It cannot start", resolution="Stop the other one"):
                won.append(number)
                done.wait(5)
        except Conflict as error:
            lost.append(error.code)
            if len(lost) == 7:
                done.set()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), lost) == (1, ["AGENT_RUNNING"] * 7)
    with exclusive(path, what="", resolution=""):
        pass  # the lock file that was left is nobody's


def test_a_second_client_agent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_STATE_DIR", str(tmp_path))
    directory = ClientFiles().directory
    directory.mkdir(mode=0o700)
    with (
        exclusive(directory / "agent.lock", what="", resolution=""),
        pytest.raises(Conflict, match=r"agent\.lock"),
    ):
        run_client(tmp_path / "client.sock")


def test_a_second_server_agent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path / "state", monkeypatch)
    with (
        exclusive(server.agent.state / api_serve.LOCK_NAME, what="", resolution=""),
        pytest.raises(Conflict, match="The server cannot start"),
    ):
        asyncio.run(api_serve.serve(server.agent, tmp_path / "server.sock"))
    assert not (tmp_path / "server.sock").exists()
    server.agent.credentials.close()


def test_the_log_of_a_detached_server_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for number in range(100):
            os.write(descriptor, f"{number:04d} ".encode() + b"x" * 100 + b"\n")
            bound_log(path, descriptor, limit=1000)
            assert path.stat().st_size <= 1200
        both = path.with_name("server.log.1").read_text() + path.read_text()
        assert both.splitlines()[-1].startswith("0099")
        assert path.with_name("server.log.1").stat().st_size <= 2200
        assert stat.S_IMODE(path.with_name("server.log.1").stat().st_mode) == 0o600
        assert sorted(p.name for p in tmp_path.iterdir()) == ["server.log", "server.log.1"]
        other = tmp_path / "other.log"
        other.write_bytes(b"y" * 5000)
        assert not bound_log(other, descriptor, limit=10), "a file that is not ours is left alone"
        assert other.stat().st_size == 5000
    finally:
        os.close(descriptor)
