from __future__ import annotations

import base64
import json
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.issue import Issuer, make_request
from portico.certificates.store import CertificateStore
from portico.certificates.tickets import (
    TICKET_ROTATION,
    TICKETS_NAME,
    load_tickets,
    next_rotation,
    rotate_tickets,
    save_tickets,
)
from portico.certificates.tokens import Token, TokenRefused, burn_token, create_token
from portico.certificates.trust import pin
from portico.errors import InvalidInput, NotFound, PorticoError

URL = "https://da.example.net:443"


def enrol(issuer: Issuer, token: Token, at: datetime, secret: str | None = None) -> str:
    _, request = make_request("x")
    name, _ = issuer.enrol(token=token.id, secret=secret or token.secret, request=request, days=90, now=at)
    return name


def new(issuer: Issuer, now: datetime) -> Token:
    return create_token(issuer.store, name="client1", url=URL, trust=issuer.trust, now=now)


def test_a_token_survives_copying(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    assert Token.parse(token.text) == token
    assert Token.parse(f"  {token.text[:40]}\n{token.text[40:]}\r\n") == token
    assert token.pin == pin(issuer.trust)
    assert json.loads(base64.urlsafe_b64decode(token.text + "==="))["v"] == 1
    assert token.secret not in repr(token)


def test_the_store_never_holds_the_secret(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    for path in issuer.store.directory.iterdir():
        assert token.secret.encode() not in path.read_bytes()


def test_a_token_expires(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    with pytest.raises(TokenRefused) as caught:
        enrol(issuer, token, now + timedelta(hours=1))
    assert caught.value.reason == "expired"
    assert enrol(issuer, token, now + timedelta(minutes=59)) == "client1"


def test_three_wrong_secrets_burn_a_token_and_the_answer_does_not_say_why(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    reasons, answers = [], set()
    for _ in range(3):
        with pytest.raises(TokenRefused) as caught:
            enrol(issuer, token, now, secret="wrong")
        reasons.append(caught.value.reason)
        answers.add(str(caught.value))
    with pytest.raises(TokenRefused) as caught:
        enrol(issuer, token, now)
    reasons.append(caught.value.reason)
    answers.add(str(caught.value))
    with pytest.raises(TokenRefused) as caught:
        enrol(issuer, Token(URL, token.pin, "00", "x", "y"), now)
    reasons.append(caught.value.reason)
    answers.add(str(caught.value))
    assert reasons == ["wrong secret", "wrong secret", "wrong secret, burned", "burned", "unknown"]
    assert len(answers) == 1
    assert issuer.store.issued() == []


def test_two_wrong_secrets_leave_a_token_open(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    for _ in range(2):
        with pytest.raises(TokenRefused):
            enrol(issuer, token, now, secret="wrong")
    assert enrol(issuer, token, now) == "client1"


def test_of_many_at_once_one_enrols(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append(enrol(issuer, token, now))
        except TokenRefused as refused:
            outcomes.append(refused.reason)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["client1"] + ["used"] * 7


def test_an_administrator_can_burn_a_token(issuer: Issuer, now: datetime) -> None:
    token = new(issuer, now)
    assert burn_token(issuer.store, token.id, now).state(now) == "burned"
    with pytest.raises(TokenRefused):
        enrol(issuer, token, now)
    with pytest.raises(NotFound):
        burn_token(issuer.store, "nothing", now)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
def test_a_lifetime_that_makes_no_sense_is_refused(issuer: Issuer, now: datetime, lifetime: timedelta) -> None:
    with pytest.raises(InvalidInput) as caught:
        create_token(issuer.store, name="c", url=URL, trust=issuer.trust, now=now, lifetime=lifetime)
    assert caught.value.code == "TOKEN_LIFETIME"


def test_dead_tokens_are_dropped_after_a_month(issuer: Issuer, now: datetime) -> None:
    new(issuer, now)
    new(issuer, now + timedelta(days=60))
    assert len(issuer.store.tokens()) == 1


def encoded(fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


GOOD = {"v": 1, "url": URL, "pin": "0" * 64, "id": "a", "secret": "b", "name": "c"}


@pytest.mark.parametrize(
    "fields",
    [
        *({**GOOD, key: None} for key in GOOD),
        {**GOOD, "v": 2},
        {**GOOD, "v": True},
        {**GOOD, "url": "http://da.example.net"},
        {**GOOD, "url": "https://user@da.example.net/path"},
        {**GOOD, "pin": "zz"},
        {**GOOD, "name": "a\x1b[2J"},
        [],
        7,
    ],
)
def test_a_token_that_says_something_else_is_refused(fields: object) -> None:
    assert Token.parse(encoded(GOOD)).name == "c"
    with pytest.raises(InvalidInput) as caught:
        Token.parse(encoded(fields))
    assert caught.value.code == "TOKEN_MALFORMED"


@given(st.text(max_size=200))
def test_arbitrary_text_is_no_token(text: str) -> None:
    with pytest.raises(PorticoError):
        Token.parse(text)


def test_a_truncated_token_is_refused(issuer: Issuer, now: datetime) -> None:
    text = new(issuer, now).text
    for length in range(0, len(text), 7):
        with pytest.raises(InvalidInput):
            Token.parse(text[:length])


def test_the_store_opens_again_with_what_it_held(issuer: Issuer, now: datetime) -> None:
    new(issuer, now)
    directory: Path = issuer.store.directory
    issuer.store.close()
    assert len(CertificateStore.open(directory).tokens()) == 1


def test_ticket_keys_rotate_and_the_last_ones_still_decrypt(tmp_path: Path, now: datetime) -> None:
    counter = iter(range(100))

    def random(size: int) -> bytes:
        return bytes([next(counter)]) * size

    keys = rotate_tickets((), now, random=random)
    assert rotate_tickets(keys, now + TICKET_ROTATION / 2, random=random) == keys
    history = [keys]
    for step in range(1, 5):
        history.append(rotate_tickets(history[-1], now + step * TICKET_ROTATION, random=random))
    assert [key.key[0] for key in history[-1]] == [4, 3, 2]
    assert next_rotation(history[-1]) == now + 5 * TICKET_ROTATION
    assert [key.key[0] for key in rotate_tickets(history[-1], now + timedelta(days=9), random=random)] == [5]
    assert len(rotate_tickets(history[-1], now - timedelta(days=9), random=random)) == 1
    save_tickets(tmp_path, history[-1])
    assert load_tickets(tmp_path) == history[-1]
    assert (tmp_path / TICKETS_NAME).stat().st_mode & 0o777 == 0o600
    assert "x04" not in repr(history[-1])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'[{"key": "00", "created": "2026-01-01T00:00:00+00:00"}]', b"\xff"]
)
def test_damaged_ticket_keys_are_named(tmp_path: Path, content: bytes) -> None:
    assert load_tickets(tmp_path) == ()
    (tmp_path / TICKETS_NAME).write_bytes(content)
    if content == b"{}":
        assert load_tickets(tmp_path) == ()
        return
    with pytest.raises(PorticoError, match=TICKETS_NAME):
        load_tickets(tmp_path)
