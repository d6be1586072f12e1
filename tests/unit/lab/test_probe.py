"""The bookkeeping of the prober, and what its tap reads from frames."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import InvalidInput
from portico.lab.hosts import Host
from portico.lab.probe import wire
from portico.lab.probe.core import MAX_EXAMPLES, WINDOW, Answers, Client, Clients
from portico.lab.probe.prober import Prober, Report
from portico.lab.state import LabState
from portico.lab.topology import crowd_sources

VIP, CLIENT = "203.0.113.11", "198.18.0.1"


def frame(source: str, destination: str, protocol: int, transport: bytes, *, offset: int = 0) -> bytes:
    """An Ethernet frame with an IP packet without options; checksums are nobody's business here."""
    one, other = ip_address(source), ip_address(destination)
    if one.version == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, offset, 64, protocol, 0)
        return bytes(12) + b"\x08\x00" + header + one.packed + other.packed + transport
    header = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64)
    return bytes(12) + b"\x86\xdd" + header + one.packed + other.packed + transport


def udp(payload: bytes) -> bytes:
    return struct.pack("!HHHH", 7000, 40000, 8 + len(payload), 0) + payload


def tcp(flags: int, acknowledged: int = 0) -> bytes:
    return struct.pack("!HHIIBBHHH", 443, 40000, 1, acknowledged, 0x50, flags, 0, 0, 0)


@pytest.mark.parametrize(("server", "client"), [(VIP, CLIENT), ("2001:db8:ffff::11", "2001:db8:c0::1")])
def test_answers_are_read_from_frames_of_both_ip_versions(server: str, client: str) -> None:
    assert wire.answer(frame(server, client, 17, udp(wire.question(3, 1 << 40)))) == wire.Datagram(3, 1 << 40)
    flow = (server, 443, client, 40000)
    assert wire.answer(frame(server, client, 6, tcp(0x12, 77))) == wire.Segment(flow, 77)
    assert wire.answer(frame(server, client, 6, tcp(0x10, 77))) == wire.Segment(flow, None)
    assert wire.answer(frame(server, client, 6, tcp(0x04))) == wire.Segment(flow, None)


def test_other_frames_say_nothing() -> None:
    assert wire.answer(frame(VIP, CLIENT, 17, udp(b"something else, long enough to be a question"))) is None
    assert wire.answer(frame(VIP, CLIENT, 1, bytes(64))) is None
    assert wire.answer(frame(VIP, CLIENT, 17, udp(wire.question(0, 0)), offset=100)) is None
    assert wire.answer(bytes(12) + b"\x88\x6f" + bytes(100)) is None


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    wire.answer(data)
    wire.answer(bytes(12) + b"\x08\x00" + data)
    wire.answer(bytes(12) + b"\x86\xdd" + data)
    wire.echo(wire.MAGIC + data)


def test_an_echo_returns_the_question_and_perhaps_a_tag() -> None:
    assert wire.echo(wire.question(1, 2)) == wire.Echo(1, 2, b"")
    assert wire.echo(wire.question(1, 2) + b"da2") == wire.Echo(1, 2, b"da2")
    assert len(wire.question(1, 2)) == wire.SIZE


def figures(clients: Clients, now: float) -> list[Client]:
    return [Client(**client) for client in clients.report(now)["clients"]]


def test_silence_is_the_longest_time_without_an_answer() -> None:
    clients = Clients(2, 0.0)
    for step in range(10):
        for client in (0, 1):
            number = clients.ask(client, step * 0.1)
            if client == 0 or not 3 <= step < 8:
                clients.answer(client, number, b"", step * 0.1)
    lucky, unlucky = figures(clients, 1.0)
    assert lucky.silence == pytest.approx(0.1)
    assert unlucky.silence == pytest.approx(0.6)
    assert (unlucky.asked, unlucky.answered) == (10, 5)
    assert figures(clients, 3.0)[0].silence == pytest.approx(2.1), "silence that still lasts counts"
    clients.mark(3.0)
    assert figures(clients, 3.5)[1] == Client(silence=0.5)


def test_the_probers_own_stall_is_told_apart() -> None:
    clients = Clients(1, 0.0)
    for now in (0.0, 0.1, 0.9, 1.0):
        clients.answer(0, clients.ask(0, now), b"", now)
    assert figures(clients, 1.0)[0].stall == pytest.approx(0.8)


def test_a_second_answer_is_a_duplicate_and_with_another_tag_a_double() -> None:
    clients = Clients(1, 0.0)
    number = clients.ask(0, 0.0)
    for tag in (b"da1", b"da1", b"da2"):
        clients.answer(0, number, tag, 0.1)
    assert figures(clients, 0.1)[0].duplicates == 2
    assert clients.report(0.1)["doubles"] == 1


def test_answers_to_old_or_unknown_questions_are_not_mistaken() -> None:
    clients = Clients(1, 0.0)
    for _ in range(WINDOW + 5):
        clients.ask(0, 0.0)
    clients.answer(0, 0, b"", 0.1)
    clients.answer(0, WINDOW + 5, b"", 0.1)
    clients.answer(7, 0, b"", 0.1)
    assert figures(clients, 0.1)[0] == Client(asked=WINDOW + 5, late=1, silence=0.1)


def test_two_servers_for_one_question_are_a_double() -> None:
    answers = Answers()
    answers.answered("one", "da1")
    answers.answered("two", "da2")
    answers.answered("two", "da2")
    assert (answers.doubles, answers.twice, answers.repeats) == (0, 0, 1)
    answers.answered("one", "da2")
    assert (answers.doubles, answers.twice) == (1, 1)
    assert answers.examples == [("one", ["da1", "da2"])]
    assert answers.by_server == {"da1": 1, "da2": 3}


def test_a_connection_may_change_hands_but_not_back() -> None:
    answers = Answers()
    answers.began("flow", "da1")
    answers.spoke("flow", "da1")
    answers.spoke("flow", "da2")
    assert (answers.doubles, answers.moved) == (0, 1)
    answers.spoke("flow", "da1")
    assert (answers.doubles, answers.twice) == (1, 0)
    answers.began("flow", "da1")
    answers.spoke("flow", "da1")
    assert answers.doubles == 1, "a new connection of the same ports is judged by itself"


def test_what_is_remembered_is_bounded_and_what_is_forgotten_counted() -> None:
    answers = Answers(limit=100)
    for number in range(150):
        answers.answered(number, "da1")
        answers.began(("flow", number), "da1")
    assert answers.forgotten == 100
    for number in range(MAX_EXAMPLES + 5):
        answers.answered(149 - number, "da2")
    assert answers.doubles == MAX_EXAMPLES + 5
    assert len(answers.examples) == MAX_EXAMPLES


def test_the_report_sums_up() -> None:
    report = Report(tuple(Client(silence=value / 100, duplicates=1) for value in range(100)), doubles=0, not_sent=0)
    assert report.silence() == 0.99
    assert report.silence(0.5) == 0.5
    assert report.duplicates == 100


@pytest.mark.parametrize(("clients", "interval"), [(0, 1.0), (901, 1.0), (500, 0.008)])
def test_more_than_a_prober_can_ask_is_refused(clients: int, interval: float) -> None:
    with pytest.raises(InvalidInput):
        Prober(Host(LabState("x"), "crowd"), (VIP, 7000), crowd_sources(clients), interval=interval)
