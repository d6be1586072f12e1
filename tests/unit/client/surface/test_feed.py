"""The status socket: what readers get, how many there may be, and who is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from portico.client.assistant.report import Check, Report, State
from portico.client.status import Status, Substatus
from portico.client.surface import feed, feed_client
from portico.client.surface.feed import BACKLOG, MAXIMUM_LINE, Feed, line, listen
from portico.client.surface.surface import Surface
from portico.errors import InvalidInput, LimitReached, PorticoError, Unavailable


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what it waits for tells nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(path: Path, **bounds: int) -> AsyncIterator[Feed]:
    served = Feed(listen(path), **bounds)
    try:
        yield served
    finally:
        await served.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "client-status" / "status.sock"


async def connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(path), limit=MAXIMUM_LINE)


def test_a_line_at_connect_and_one_at_each_change(path: Path, working: Report, broken: Report) -> None:
    async def body() -> None:
        async with serving(path) as served, asyncio.timeout(30):
            served.tell(line(working))
            reader, writer = await connect(path)
            first = json.loads(await reader.readline())
            assert (first["version"], first["word"], first["status"]) == (1, "working", "ConnectedRemotely")
            assert [check["name"] for check in first["checks"]] == [check.name for check in working.checks]
            served.tell(line(working))
            served.tell(line(broken))
            second = json.loads(await reader.readline())
            assert (second["word"], second["checks"][1]["who"]) == ("broken", "administrator"), "the same is told once"
            assert Report.from_dict(second) == broken
            writer.close()
            await until(lambda: served.readers == 0)

    asyncio.run(body())


def test_who_comes_before_the_first_report_gets_it_when_there_is_one(path: Path, working: Report) -> None:
    async def body() -> None:
        async with serving(path) as served, asyncio.timeout(30):
            reader, _ = await connect(path)
            await until(lambda: served.readers == 1)
            served.tell(line(working))
            assert json.loads(await reader.readline())["word"] == "working"

    asyncio.run(body())


def test_everybody_may_read_and_nobody_may_put_another_socket_there(path: Path) -> None:
    former = os.umask(0o077)
    try:
        listen(path).close()
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_a_socket_that_was_left_behind_is_replaced(path: Path) -> None:
    listen(path).close()
    listen(path).close()


def test_a_place_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        listen(tmp_path / "file" / "status.sock")
    assert caught.value.code == "FILE_NOT_WRITTEN"


def test_a_reader_that_takes_nothing_is_dropped_and_the_others_are_not(path: Path, working: Report) -> None:
    long = Check(name="x" * 300, state=State.PASSED, detail="y" * 300, cause="z" * 300, since=working.since)
    checks = tuple(long.model_copy(update={"name": f"{number} {long.name}"}) for number in range(200))

    async def body() -> None:
        async with serving(path) as served, asyncio.timeout(60):
            slow = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            slow.connect(str(path))
            reader, _ = await connect(path)
            await until(lambda: served.readers == 2)
            for number in range(BACKLOG + 20):
                told = line(working.model_copy(update={"network": str(number), "checks": checks}))
                served.tell(told)
                assert await reader.readline() == told
            assert served.counters.dropped_slow == 1
            assert served.readers == 1
            slow.close()

    asyncio.run(body())


def test_a_reader_that_speaks_is_dropped(path: Path, working: Report) -> None:
    async def body() -> None:
        async with serving(path) as served, asyncio.timeout(30):
            served.tell(line(working))
            reader, writer = await connect(path)
            await reader.readline()
            writer.write(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionResetError):  # what it said is unread
                assert await reader.read() == b""
            assert served.counters.dropped_speaking == 1
            assert served.readers == 0

    asyncio.run(body())


def test_readers_are_bounded_and_the_refused_are_counted(path: Path, working: Report) -> None:
    async def body() -> None:
        async with serving(path, maximum=3, per_user=2) as served, asyncio.timeout(30):
            served.tell(line(working))
            held = [await connect(path) for _ in range(2)]
            for reader, _ in held:
                await reader.readline()
            refused, _ = await connect(path)
            assert await refused.read() == b"", "this user has as many as it may"
            assert (served.counters.refused, served.readers) == (1, 2)
            with pytest.raises(LimitReached):
                await asyncio.to_thread(feed_client.read, path)
            held.pop()[1].close()
            await until(lambda: served.readers == 1)
            assert (await asyncio.to_thread(feed_client.read, path)).status == working.status

    asyncio.run(body())


def test_a_reader_without_input_reads_on_and_leaves_its_place_when_it_is_gone(
    path: Path, working: Report, broken: Report
) -> None:
    async def body() -> None:
        async with serving(path, per_user=1) as served, asyncio.timeout(30):
            served.tell(line(working))
            reader, writer = await connect(path)
            writer.write_eof()
            await reader.readline()
            served.tell(line(broken))
            assert json.loads(await reader.readline())["word"] == "broken"
            writer.close()
            await writer.wait_closed()
            second, _ = await connect(path)
            assert json.loads(await second.readline())["word"] == "broken", "the place was free"
            assert served.counters.refused == 0

    asyncio.run(body())


def test_the_longest_report_fits_a_line_and_is_one_line(working: Report) -> None:
    text = '"\U0001f600\n\ud800' * 500
    check = Check(name=text, state=State.FAILED, detail=text, cause=text, resolution=text, since=working.since)
    told = line(working.model_copy(update={"network": text, "support_email": text, "checks": (check,) * 200}))
    assert len(told) <= MAXIMUM_LINE
    assert told.count(b"\n") == 1
    assert len(Report.from_dict(json.loads(told)).checks) == 200


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"", LimitReached), (b"{}\n", InvalidInput), (b"nonsense\n", InvalidInput), (b'{"half', LimitReached)],
)
def test_what_is_no_status_is_an_error(path: Path, said: bytes, error: type[PorticoError]) -> None:
    listener = listen(path)
    listener.setblocking(True)

    def answer() -> None:
        connection, _ = listener.accept()
        connection.sendall(said)
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(error):
        feed_client.read(path)
    thread.join()
    listener.close()


def test_nobody_there_and_nobody_who_says_something(path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        feed_client.read(path)
    assert caught.value.code == "AGENT_NOT_RUNNING"
    listener = listen(path)
    with pytest.raises(Unavailable, match="it says nothing"):
        feed_client.read(path, patience=0.05)
    listener.close()


def test_a_reader_that_is_told_without_end_stops_at_the_bound(path: Path) -> None:
    listener = listen(path)
    listener.setblocking(True)

    def answer() -> None:
        connection, _ = listener.accept()
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(InvalidInput):
        feed_client.read(path, patience=30)
    thread.join()
    listener.close()


def test_the_surface_opens_tells_and_cleans_up(path: Path, working: Report, tmp_path: Path) -> None:
    async def body() -> None:
        surface = Surface()
        surface.tell(working)
        surface.open(path)
        try:
            assert (await asyncio.to_thread(feed_client.read, path)).place == working.place
            assert surface.readers()["accepted"] == 1
        finally:
            await surface.close()
        (tmp_path / "file").write_text("")
        surface.open(tmp_path / "file" / "status.sock")
        assert "cannot write" in surface.problem, "the agent goes on without it and says so"

    asyncio.run(body())
    assert not path.exists()


def test_what_changes_is_told_soon_and_not_faster_than_readers_follow(
    path: Path, working: Report, broken: Report
) -> None:
    async def body() -> None:
        surface, reports = Surface(), [working]
        surface.open(path)
        keeping = asyncio.create_task(surface.keep(lambda: reports[-1]))
        try:
            async with asyncio.timeout(30):
                reader, _ = await connect(path)
                assert json.loads(await reader.readline())["word"] == "working"
                for number in range(1000):
                    reports.append(broken.model_copy(update={"network": str(number)}))
                    surface.changed()
                while (told := json.loads(await reader.readline()))["network"] != "999":
                    assert told["word"] == "broken"
            assert surface.readers()["lines"] < 10
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await surface.close()

    asyncio.run(body())


def test_the_version_of_the_line_is_documented() -> None:
    text = (Path(__file__).parents[4] / "docs" / "client.md").read_text()
    assert f'"version": {feed.VERSION}' in text


def test_without_an_assistant_there_is_still_something_to_tell() -> None:
    surface = Surface()
    first = surface.without_assistant(Status.NOT_ENROLLED, Substatus.NONE, "")
    assert (first.status, first.checks) == (Status.NOT_ENROLLED, ())
    assert surface.without_assistant(Status.NOT_ENROLLED, Substatus.NONE, "") is first, "since it came to be so"
    stuck = surface.without_assistant(Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER, "identity.pem is damaged")
    assert stuck.failed is not None
    assert stuck.failed.detail == "identity.pem is damaged"
    assert surface.without_assistant(Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER, "trust.pem") is not stuck
