"""Dialogues with the resolver's core: what is asked where, and what the requester hears."""

from __future__ import annotations

from ipaddress import ip_address

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.client.resolver.core import Action, Answer, Ask, Fallback, Forget, Ignore, Resolver, Timing
from portico.client.resolver.wire import Malformed, parse_query
from portico.naming.nrpt import Rule, Table

INSIDE, INSIDE2 = "fd00:3333::1", "fd00:3333::2"
OUTSIDE, OUTSIDE2 = "192.0.2.53", "192.0.2.54"


class Dialogue:
    """A resolver with predictable identifiers."""

    def __init__(self, *, tunnel: bool = True, **options: object) -> None:
        table = Table(
            [
                Rule(".corp.example.net", (ip_address(INSIDE), ip_address(INSIDE2))),
                Rule("nls.corp.example.net", ()),
                Rule(".public.corp.example.net", ()),
                Rule(".deep.public.corp.example.net", (ip_address(INSIDE2),)),
            ]
        )
        self.identifier = 4711
        self.core = Resolver(
            table,
            random=lambda limit: self.identifier % limit,
            outside=(OUTSIDE, OUTSIDE2),
            exempt=("da.corp.example.net",),
            **options,  # type: ignore[arg-type]
        )
        if tunnel:
            self.core.set_tunnel(True, 0.0)

    def query(
        self,
        name: str,
        now: float = 1.0,
        *,
        kind: str = "AAAA",
        tcp: bool = False,
        requester: int = 1,
        edns: bool = True,
    ) -> list[Action]:
        message = dns.message.make_query(name, kind, use_edns=0 if edns else -1, payload=1232)
        message.id = 99
        return self.core.query(message.to_wire(), requester, now, tcp=tcp)


def response(
    ask: Ask, *, code: int = dns.rcode.NOERROR, address: str = "fd00::1", records: int = 1, **flags: bool
) -> bytes:
    query = dns.message.from_wire(ask.data)
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.Rcode(code))
    if code == dns.rcode.NOERROR:
        texts = [f"{address}{number:x}" for number in range(records)]
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "AAAA", *texts))
    if flags.get("truncated"):
        answer.flags |= dns.flags.TC
    return answer.to_wire(max_size=65535)


def only_ask(actions: list[Action]) -> Ask:
    (ask,) = [action for action in actions if isinstance(action, Ask)]
    return ask


def only_answer(actions: list[Action]) -> dns.message.Message:
    (answer,) = [action for action in actions if isinstance(action, Answer)]
    return dns.message.from_wire(answer.data)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("app.corp.example.net", INSIDE),
        ("APP.Corp.Example.NET", INSIDE),
        ("corp.example.net", INSIDE),
        ("nls.corp.example.net", OUTSIDE),
        ("www.nls.corp.example.net", INSIDE),
        ("x.public.corp.example.net", OUTSIDE),
        ("y.deep.public.corp.example.net", INSIDE2),
        ("da.corp.example.net", OUTSIDE),
        ("notcorp.example.net", OUTSIDE),
        ("example.org", OUTSIDE),
        (".", OUTSIDE),
    ],
)
def test_longest_match_decides_who_is_asked(name: str, server: str) -> None:
    assert only_ask(Dialogue().query(name)).server == server


def test_answer_reaches_the_requester_under_its_own_identifier_and_spelling() -> None:
    dialogue = Dialogue()
    ask = only_ask(dialogue.query("App.corp.example.net"))
    assert int.from_bytes(ask.data[:2], "big") == 4711
    actions = dialogue.core.answer(ask.attempt, response(ask), 1.1)
    assert Forget(ask.attempt) in actions
    message = only_answer(actions)
    assert message.id == 99
    assert message.question[0].name.to_text() == "App.corp.example.net."
    assert dialogue.core.under_way == 0
    assert dialogue.core.next_timeout() is None


def test_forged_answers_are_not_believed_and_the_true_one_still_counts() -> None:
    dialogue = Dialogue()
    ask = only_ask(dialogue.query("app.corp.example.net"))
    good = response(ask)
    other = dns.message.make_response(dns.message.make_query("other.corp.example.net", "AAAA", id=4711)).to_wire()
    for forged in (b"\0\0" + good[2:], ask.data, other, good[:11], b""):
        assert dialogue.core.answer(ask.attempt, forged, 1.1) == []
    assert dialogue.core.counters.forged == 3
    assert only_answer(dialogue.core.answer(ask.attempt, good, 1.2)).answer


def test_silent_server_is_left_for_the_next_and_asked_last_afterwards() -> None:
    dialogue = Dialogue()
    first = only_ask(dialogue.query("app.corp.example.net", 1.0))
    assert dialogue.core.next_timeout() == 2.5
    second = only_ask(dialogue.core.handle_timeout(2.5))
    assert (first.server, second.server) == (INSIDE, INSIDE2)
    assert dialogue.core.answer(first.attempt, response(first), 2.6) == []
    assert only_answer(dialogue.core.answer(second.attempt, response(second), 2.7)).answer
    assert only_ask(dialogue.query("app.corp.example.net", 3.0, requester=2)).server == INSIDE2
    assert only_ask(dialogue.query("app.corp.example.net", 40.0, requester=3)).server == INSIDE


def test_all_servers_silent_is_a_failure_within_the_requesters_patience() -> None:
    dialogue = Dialogue()
    dialogue.query("app.corp.example.net", 1.0)
    message, now = None, 1.0
    while (when := dialogue.core.next_timeout()) is not None:
        now = when
        for action in dialogue.core.handle_timeout(when):
            if isinstance(action, Answer):
                message = dns.message.from_wire(action.data)
    assert message is not None
    assert message.rcode() == dns.rcode.SERVFAIL
    assert now - 1.0 <= Timing().total
    assert extended_error(message) == 22


def extended_error(message: dns.message.Message) -> int:
    (option,) = [option for option in message.options if isinstance(option, dns.edns.EDEOption)]
    return int(option.code)


def test_names_inside_fail_fast_without_a_tunnel_and_are_never_asked_outside() -> None:
    dialogue = Dialogue(tunnel=False)
    actions = dialogue.query("app.corp.example.net")
    assert not [action for action in actions if isinstance(action, Ask)]
    message = only_answer(actions)
    assert message.rcode() == dns.rcode.SERVFAIL
    assert extended_error(message) == 23
    plain = only_answer(dialogue.query("app.corp.example.net", edns=False))
    assert not plain.options
    assert only_ask(dialogue.query("example.org")).server == OUTSIDE


def test_a_short_redial_holds_names_inside_instead_of_failing_them() -> None:
    dialogue = Dialogue()
    before = only_ask(dialogue.query("one.corp.example.net", 1.0, requester=1))
    assert dialogue.core.set_tunnel(False, 1.1) == [Forget(before.attempt)]
    assert dialogue.query("two.corp.example.net", 1.2, requester=2) == []
    asked = [action for action in dialogue.core.set_tunnel(True, 1.5) if isinstance(action, Ask)]
    assert len(asked) == 2
    assert {action.server for action in asked} == {INSIDE}


def test_a_tunnel_that_stays_down_fails_what_was_held() -> None:
    dialogue = Dialogue()
    dialogue.query("one.corp.example.net", 1.0)
    dialogue.core.set_tunnel(False, 1.1)
    assert dialogue.core.next_timeout() == pytest.approx(3.1)
    assert only_answer(dialogue.core.handle_timeout(3.1)).rcode() == dns.rcode.SERVFAIL
    assert only_answer(dialogue.query("two.corp.example.net", 3.2)).rcode() == dns.rcode.SERVFAIL


def test_a_server_that_cannot_be_reached_is_left_at_once() -> None:
    dialogue = Dialogue()
    first = only_ask(dialogue.query("example.org"))
    assert only_ask(dialogue.core.failed(first.attempt, 1.0)).server == OUTSIDE2


def test_servfail_of_one_server_is_not_the_last_word_but_that_of_all_is() -> None:
    dialogue = Dialogue()
    ask = only_ask(dialogue.query("example.org"))
    for _ in range(3):
        ask = only_ask(dialogue.core.answer(ask.attempt, response(ask, code=dns.rcode.SERVFAIL), 1.1))
    final = only_answer(dialogue.core.answer(ask.attempt, response(ask, code=dns.rcode.SERVFAIL), 1.1))
    assert final.rcode() == dns.rcode.SERVFAIL
    assert final.id == 99


def test_too_large_for_udp_is_truncated_and_whole_over_tcp() -> None:
    dialogue = Dialogue()
    ask = only_ask(dialogue.query("app.corp.example.net", edns=False))
    small = only_answer(dialogue.core.answer(ask.attempt, response(ask, records=60), 1.1))
    assert small.flags & dns.flags.TC
    assert not small.answer
    ask = only_ask(dialogue.query("app.corp.example.net", tcp=True, edns=False))
    assert ask.tcp
    assert len(only_answer(dialogue.core.answer(ask.attempt, response(ask, records=60), 1.1)).answer[0]) == 60


def test_more_queries_than_allowed_are_refused_and_counted() -> None:
    dialogue = Dialogue(max_queries=2)
    for requester in (1, 2):
        dialogue.query("example.org", requester=requester)
    assert only_answer(dialogue.query("example.org", requester=3)).rcode() == dns.rcode.SERVFAIL
    assert dialogue.core.counters.refused_full == 1


@pytest.mark.parametrize(
    ("fallback", "private", "after_nxdomain", "after_silence"),
    [
        (Fallback.NONE, True, False, False),
        (Fallback.SECURE, True, True, False),
        (Fallback.PRIVATE, False, True, False),
        (Fallback.PRIVATE, True, True, True),
        (Fallback.UNSECURE, False, True, True),
    ],
)
def test_fallback_shows_names_outside_only_as_far_as_the_setting_allows(
    fallback: Fallback, private: bool, after_nxdomain: bool, after_silence: bool
) -> None:
    dialogue = Dialogue(fallback=fallback)
    dialogue.core.private_network = private
    ask = only_ask(dialogue.query("app.corp.example.net"))
    actions = dialogue.core.answer(ask.attempt, response(ask, code=dns.rcode.NXDOMAIN), 1.1)
    assert [action.server for action in actions if isinstance(action, Ask)] == ([OUTSIDE] if after_nxdomain else [])
    down = Dialogue(fallback=fallback, tunnel=False)
    down.core.private_network = private
    asked = [action.server for action in down.query("app.corp.example.net") if isinstance(action, Ask)]
    assert asked == ([OUTSIDE] if after_silence else [])


def test_a_computer_without_dns_servers_says_so() -> None:
    dialogue = Dialogue()
    dialogue.core.outside = ()
    assert only_answer(dialogue.query("example.org")).rcode() == dns.rcode.SERVFAIL


def test_responses_are_never_answered() -> None:
    dialogue = Dialogue()
    message = dns.message.make_response(dns.message.make_query("example.org", "A")).to_wire()
    assert dialogue.core.query(message, 1, 1.0, tcp=False) == [Ignore(1)]


@given(st.binary(max_size=600))
def test_garbage_from_a_requester_gets_one_reaction_and_leaves_nothing(data: bytes) -> None:
    dialogue = Dialogue()
    actions = dialogue.core.query(data, 1, 1.0, tcp=False)
    assert len(actions) == 1
    if not isinstance(actions[0], Ask):
        assert dialogue.core.under_way == 0


@given(st.binary(max_size=600), st.booleans())
def test_garbage_from_a_server_changes_nothing_or_ends_the_query(data: bytes, right_identifier: bool) -> None:
    dialogue = Dialogue()
    ask = only_ask(dialogue.query("app.corp.example.net"))
    if right_identifier:
        data = ask.data[:2] + b"\x81" + data
    dialogue.core.answer(ask.attempt, data, 1.1)
    assert dialogue.core.under_way in (0, 1)


@given(st.binary(max_size=100))
def test_a_query_is_read_or_refused_with_one_error(tail: bytes) -> None:
    header = bytes.fromhex("000101000001000000000001")
    try:
        query = parse_query(header + tail)
    except Malformed:
        return
    assert query.question == tail[: len(query.question)]
