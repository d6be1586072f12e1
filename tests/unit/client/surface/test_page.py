"""The page: what it shows, and who gets it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from portico.client.assistant.report import Report
from portico.client.status import Status
from portico.client.surface.page import POLICY, STYLE, draw, draw_error
from portico.client.surface.page_server import MAXIMUM_CONNECTIONS, PageServer
from portico.client.surface.words import Word, failure, plain, word
from portico.errors import Conflict, Unavailable

NOW = datetime(2026, 11, 28, 8, 0, tzinfo=UTC)
VOID = {"meta"}


class Outline(HTMLParser):
    """Tags in balance, attributes, and the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def test_every_status_has_a_word() -> None:
    assert {word(status) for status in Status} == set(Word)


def test_the_page_shows_the_word_the_failure_and_the_chain(broken: Report) -> None:
    outline = Outline(draw(broken, NOW, refresh=True))
    assert outline.texts["b"] == ["broken"]
    assert outline.texts["h2"] == ["corpConnectivityHost"]
    assert {"the record is missing", "portico dns check", "NXDOMAIN <b>", "2026-11-28 07:00:00"} <= set(
        outline.texts["dd"]
    )
    assert "the administrator of Remote Access (help@example.net)" in outline.texts["dd"]
    assert [text for text in outline.texts["td"] if text in {check.name for check in broken.checks}] == [
        check.name for check in broken.checks
    ]


def test_a_page_that_works_shows_no_failure(working: Report) -> None:
    outline = Outline(draw(working, NOW, refresh=False))
    assert outline.texts["b"] == ["working"]
    assert "section" not in outline.tags
    assert ("http-equiv", "refresh") not in outline.attributes


def test_the_page_runs_nothing_and_loads_nothing(broken: Report) -> None:
    for text in (
        draw(broken, NOW, refresh=True),
        draw_error(Unavailable("a", why="<script>x</script>"), NOW, refresh=True),
    ):
        outline = Outline(text)
        assert not {"script", "link", "img", "iframe", "form", "a"} & outline.tags
        assert not {name for name, _ in outline.attributes if name.startswith("on") or name in ("src", "href", "style")}
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_the_chain_as_text_names_what_failed(broken: Report) -> None:
    text = plain(broken)
    assert text.startswith("broken: Error (NameResolutionFailure), outside the corporate network, by IPHTTPS")
    assert "Cause: the record is missing\nNext: portico dns check\nWho must act: the administrator" in text
    assert "✗ corpConnectivityHost: NXDOMAIN <b> [failed, 2026-11-28 07:00:00 UTC]" in text
    assert list(failure(broken, broken.checks[1])) == ["What failed", "Found", "Cause", "Next", "Who must act"]


@asynccontextmanager
async def served(look: Callable[[], Report], *, patience: float = 30.0) -> AsyncIterator[PageServer]:
    server = PageServer(look, patience=patience)
    running = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ask(server: PageServer, request: str) -> str:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(request.encode())
        answer = await reader.read()
        writer.close()
        return answer.decode()


def port(server: PageServer) -> int:
    return int(server.url.split(":")[2].partition("/")[0])


def path(server: PageServer) -> str:
    return "/" + server.url.split("/", 3)[3]


def get(server: PageServer, *, method: str = "GET", host: str = "", target: str = "", more: str = "") -> str:
    place = host or f"127.0.0.1:{port(server)}"
    return f"{method} {target or path(server)} HTTP/1.1\r\nHost: {place}\r\n{more}\r\n"


def test_who_knows_the_address_gets_the_page_with_its_headers(working: Report) -> None:
    async def body() -> None:
        async with served(lambda: working) as server:
            for host in ("", f"localhost:{port(server)}"):
                answer = await ask(server, get(server, host=host))
                head, _, page = answer.partition("\r\n\r\n")
                assert head.startswith("HTTP/1.1 200 ")
                for header in ("Cache-Control: no-store", "Referrer-Policy: no-referrer", "X-Frame-Options: DENY"):
                    assert header in head
                assert f"Content-Security-Policy: {POLICY}" in head
                assert "working" in page
            assert (await ask(server, get(server, method="HEAD"))).endswith("\r\n\r\n")

    asyncio.run(body())


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}", "[::1]:{port}"])
def test_a_name_that_resolves_to_the_loopback_gets_nothing(working: Report, host: str) -> None:
    async def body() -> None:
        async with served(lambda: working) as server:
            answer = await ask(server, get(server, host=host.format(port=port(server))))
            assert answer.startswith("HTTP/1.1 421 ")
            assert "working" not in answer
            assert server.counters.refused == 1

    asyncio.run(body())


def test_who_does_not_know_the_address_gets_nothing(working: Report) -> None:
    async def body() -> None:
        async with served(lambda: working) as server:
            for target in ("/", "/index.html", path(server)[:-2] + "x/", path(server) + "x", "/" + "a" * 100):
                assert (await ask(server, get(server, target=target))).startswith("HTTP/1.1 404 ")
            assert (await ask(server, get(server, method="POST"))).startswith("HTTP/1.1 405 ")
            assert (await ask(server, get(server, target="/" + "a" * 4000))).startswith("HTTP/1.1 414 ")
            assert (await ask(server, get(server, more=f"X: {'a' * 20000}\r\n"))).startswith("HTTP/1.1 431 ")
            no_host = f"GET {path(server)} HTTP/1.0\r\n\r\n"
            assert (await ask(server, no_host)).startswith("HTTP/1.1 421 ")
            assert "working" in await ask(server, get(server)), "and the page is still there"

    asyncio.run(body())


def test_two_pages_never_have_the_same_address(working: Report) -> None:
    async def body() -> None:
        async with served(lambda: working) as one, served(lambda: working) as other:
            assert path(one) != path(other)
            assert re.fullmatch(r"/[A-Za-z0-9_-]{20,}/", path(one))

    asyncio.run(body())


def test_an_agent_that_does_not_answer_is_what_the_page_says() -> None:
    def look() -> Report:
        raise Unavailable("The client's agent does not answer", why="<gone>", resolution="systemctl start x")

    async def body() -> None:
        async with served(look) as server:
            answer = await ask(server, get(server))
            assert answer.startswith("HTTP/1.1 200 ")
            outline = Outline(answer.partition("\r\n\r\n")[2])
            assert outline.texts["b"] == ["unknown"]
            assert outline.texts["dd"] == ["<gone>", "systemctl start x"]

    asyncio.run(body())


def test_slow_connections_make_room(working: Report) -> None:
    async def body() -> None:
        async with served(lambda: working) as server:
            held = [await asyncio.open_connection("127.0.0.1", port(server)) for _ in range(MAXIMUM_CONNECTIONS + 5)]
            assert "working" in await ask(server, get(server))
            assert server.counters.evicted > 0
            for _, writer in held:
                writer.close()

    asyncio.run(body())


def test_a_request_that_is_not_finished_in_time_is_ended(working: Report) -> None:
    async def body() -> None:
        async with served(lambda: working, patience=0.05) as server, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(b"GET ")
            assert await reader.read() == b""
            assert server.counters.timed_out == 1
            writer.close()

    asyncio.run(body())


def test_nobody_looking_ends_it(working: Report) -> None:
    async def body() -> None:
        server = PageServer(lambda: working)
        async with asyncio.timeout(30):
            await server.run(idle=0.01)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port(server))

    asyncio.run(body())


def test_a_port_that_is_taken_is_named(working: Report) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Conflict) as caught:
            PageServer(lambda: working, port=taken.getsockname()[1])
        assert caught.value.code == "PORT_IN_USE"


def test_only_the_loopback_is_listened_on(working: Report) -> None:
    server = PageServer(lambda: working)
    assert server._listener.getsockname()[0] == "127.0.0.1"
    server._listener.close()
