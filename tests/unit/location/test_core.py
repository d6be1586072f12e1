"""The HTTP of the pages and what they say: bytes in, bytes out."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.location.availability import LEASE, MAXIMUM_REASON, Availability, current, judge
from portico.location.core import MAXIMUM_HEAD, PATIENCE, Answer, Exchange, Request
from portico.location.pages import BALANCER_PATH, Site, page

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
GET = b"GET / HTTP/1.1\r\nHost: directaccess-webprobehost.corp.example.net\r\n\r\n"
DOWN = judge({"tunnel": "", "DNS64": "it does not answer", "intranet": "eth1 has no carrier"})


def asked(data: bytes, piece: int = 1 << 20) -> Exchange:
    exchange = Exchange(100.0)
    for at in range(0, len(data), piece):
        exchange.receive(data[at : at + piece])
    return exchange


def read(data: bytes, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
    """An answer as another implementation's client reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response.status_code, {k.decode(): v.decode() for k, v in response.headers}, body


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_request_is_understood_however_it_is_cut(piece: int) -> None:
    exchange = asked(GET, piece)
    assert exchange.request == Request("GET", "/", "directaccess-webprobehost.corp.example.net")


def test_an_answer_is_one_that_clients_read() -> None:
    exchange = asked(GET)
    status, headers, body = read(exchange.answer(Answer(200, b"hello"), DATE))
    assert (status, body) == (200, b"hello")
    assert headers["date"] == DATE and headers["connection"] == "close" and headers["cache-control"] == "no-store"


def test_head_gets_the_length_and_no_body() -> None:
    exchange = asked(GET.replace(b"GET", b"HEAD"))
    status, headers, body = read(exchange.answer(Answer(200, b"hello"), DATE), b"HEAD")
    assert (status, headers["content-length"], body) == (200, "5", b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n", 405),
        (b"SSTP_DUPLEX_POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 3000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * (MAXIMUM_HEAD + 1), 431),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(data: bytes, status: int) -> None:
    exchange = asked(data)
    assert exchange.request is None and exchange.refusal is not None
    assert exchange.refusal.status == status
    assert exchange.answer(exchange.refusal, DATE).startswith(b"HTTP/1.1 %d " % status)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_break_it(data: bytes, piece: int) -> None:
    exchange = asked(data, piece)
    exchange.receive(b"")
    if exchange.complete:
        said = exchange.refusal or page(Site.NLS, exchange.request or Request("GET", "/", ""), DOWN)
        assert exchange.answer(said, DATE).startswith(b"HTTP/1.1 ")


def test_a_peer_that_sends_a_byte_now_and_then_has_its_time_and_no_more() -> None:
    exchange = Exchange(100.0)
    for number, at in enumerate(range(0, len(GET) - 1)):
        exchange.receive(GET[at : at + 1])
        assert exchange.expired(100.0 + PATIENCE) and not exchange.expired(100.0 + PATIENCE * number / len(GET))
    exchange.receive(GET[-1:])
    assert not exchange.expired(200.0)


def test_the_probe_is_available_while_everything_works() -> None:
    said = judge({"tunnel": "", "DNS64": "", "NAT64": "", "intranet": ""})
    answer = page(Site.WEB_PROBE, Request("GET", "/", "x"), said)
    assert answer.status == 200 and b"available" in answer.body and len(answer.body) < 1000


def test_it_is_unavailable_with_every_reason() -> None:
    answer = page(Site.WEB_PROBE, Request("GET", "/index.html", "x"), DOWN)
    assert answer.status == 503 and b"unavailable" in answer.body
    assert b"DNS64: it does not answer" in answer.body and b"intranet: eth1 has no carrier" in answer.body
    assert b"tunnel" not in answer.body


def test_reasons_cannot_bring_markup_and_are_short() -> None:
    said = judge({"tunnel": "<script>" + "x" * 1000})
    body = page(Site.WEB_PROBE, Request("GET", "/", "x"), said).body
    assert b"<script>" not in body and len(body) < MAXIMUM_REASON + 300


@pytest.mark.parametrize(
    ("said", "status", "state"),
    [
        (Availability(), 200, "available"),
        (Availability(draining=True), 503, "draining"),
        (DOWN, 503, "unavailable"),
    ],
)
def test_a_balancer_is_told_more_and_sends_no_new_clients_to_a_draining_server(
    said: Availability, status: int, state: str
) -> None:
    answer = page(Site.WEB_PROBE, Request("GET", BALANCER_PATH, "x"), said)
    found: dict[str, Any] = json.loads(answer.body)
    assert (answer.status, found["status"]) == (status, state)
    assert found["reasons"] == dict(said.reasons)
    assert page(Site.WEB_PROBE, Request("GET", "/", "x"), Availability(draining=True)).status == 200


def test_who_is_inside_is_inside_whatever_else_is_broken() -> None:
    for path in ("/", "/anything", BALANCER_PATH):
        assert page(Site.NLS, Request("GET", path, "x"), DOWN).status == 200


def test_what_the_agent_said_goes_out_of_date() -> None:
    assert current(Availability(), LEASE).available
    assert not current(Availability(), LEASE + 0.1).available
    assert "has not said" in current(None, 0.0).reasons["agent"]


def test_what_is_told_arrives() -> None:
    assert Availability.from_dict(json.loads(json.dumps(DOWN.as_dict()))) == DOWN
    with pytest.raises(ValueError, match="reasons"):
        Availability.from_dict({})
    with pytest.raises(ValueError, match="teredo"):
        judge({"teredo": "down"})
