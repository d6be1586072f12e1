"""The device flow's questions (RFC 8628 section 3.5) where the provider does what a real one does seldom."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest

from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.management.cli import login as login_module
from portico.management.cli.login import Login

ISSUER = "https://login.example.net"
Answer = httpx.Response | httpx.TransportError


def pending(error: str = "authorization_pending", **more: str) -> httpx.Response:
    return httpx.Response(400, json={"error": error, **more})


def login(answers: list[Answer], waited: list[float], *, interval: float = 5.0) -> str:
    """One device login; `answers` are those to its questions, in order."""
    left = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/.well-known/openid-configuration":
                names = ("token_endpoint", "device_authorization_endpoint")
                return httpx.Response(200, json={"issuer": ISSUER, **{name: f"{ISSUER}/{name}" for name in names}})
            case "/device_authorization_endpoint":
                device = {"device_code": "d", "user_code": "ABCD", "verification_uri": f"{ISSUER}/device"}
                return httpx.Response(200, json={**device, "interval": interval, "expires_in": 600})
        answer = next(left)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer

    with httpx.Client(transport=httpx.MockTransport(handle)) as http:
        return Login(ISSUER, "portico", ["openid"], http, lambda _: None, sleep=waited.append).device()


def test_slow_down_adds_five_seconds_and_silence_doubles_the_wait() -> None:
    waited: list[float] = []
    answers: list[Answer] = [
        pending(),
        pending("slow_down"),
        httpx.ReadTimeout("no answer in time"),
        httpx.ConnectError("no route to host"),
        httpx.ConnectError("no route to host"),
        pending(),
        httpx.Response(200, json={"id_token": "a.b.c"}),
    ]
    assert login(answers, waited) == "a.b.c"
    assert waited == [5.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


@pytest.mark.parametrize(
    ("answer", "kind", "code", "why"),
    [
        (pending("expired_token"), NotPermitted, "LOGIN_DENIED", "nobody confirmed in time"),
        (pending("access_denied"), NotPermitted, "LOGIN_DENIED", "it was refused there"),
        (
            pending("invalid_grant", error_description="used already"),
            *(NotPermitted, "LOGIN_DENIED", "invalid_grant (used already)"),
        ),
        (httpx.Response(502), Unavailable, "LOGIN_UNAVAILABLE", "/token_endpoint answers with status 502"),
        (httpx.Response(200, text="<html>"), Unavailable, "LOGIN_UNAVAILABLE", "Expecting value"),
        (
            httpx.Response(200, json={"access_token": "x"}),
            *(Unavailable, "LOGIN_UNAVAILABLE", "it gave no ID token; the scope openid is needed"),
        ),
    ],
)
def test_other_answers_end_it_with_their_reason(answer: Answer, kind: type[PorticoError], code: str, why: str) -> None:
    with pytest.raises(kind) as error:
        login([pending(), answer], [])
    assert error.value.code == code
    assert error.value.why.startswith(why)


def test_a_provider_that_is_away_until_the_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 300))
    monkeypatch.setattr(login_module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with pytest.raises(Unavailable, match="no route to host"):
        login([httpx.ConnectError("no route to host")] * 5, [])
