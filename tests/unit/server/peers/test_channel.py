"""The peers' channel opens to members only and stands whatever is sent to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.issue import make_request
from portico.certificates.trust import private_pem
from portico.errors import InvalidInput, PorticoError
from portico.server.credentials import now_utc
from portico.server.peers import listener, messages
from portico.server.peers.caller import Caller, PeerUnreachable
from portico.server.peers.tls import blind_context, caller_context, own_member
from portico.server.peers.tokens import JoinToken
from tests.unit.server.peers.conftest import PORT, Cluster, Scenario, Server

Play = Callable[[Scenario], None]


def caller(cluster: Cluster, context: ssl.SSLContext, name: str | None = "da1") -> Caller:
    return Caller(f"{cluster.network}.1", PORT, name, context)


async def raw(cluster: Cluster, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """What the listener answers to these bytes."""
    reader, writer = await asyncio.open_connection(
        f"{cluster.network}.1", PORT, ssl=context or blind_context(), server_hostname="da1"
    )
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_a_client_certificate_does_not_open_it(play: Play, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        key, request = make_request("laptop7")
        chain = first.agent.credentials.issuer().client("laptop7", request, days=90, now=now_utc())
        member = tmp_path / "client.pem"
        member.write_text(key + chain)
        stranger = caller(cluster, caller_context(first.agent.peers.trust, member))
        with pytest.raises(PeerUnreachable):
            await stranger.get("/v1/tickets")
        await stranger.close()

    play(scenario)


def test_without_a_certificate_only_joining_is_answered(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        stranger = caller(cluster, caller_context(first.agent.peers.trust, None))
        for path in ("/v1/tickets", "/v1/state", "/v1/settings", "/v1/records", "/v1/clients", "/v1/nothing"):
            with pytest.raises(PorticoError) as error:
                await stranger.get(path)
            assert error.value.code == "NOT_A_MEMBER"
        assert first.agent.peers.refusals.counts["no certificate"] == 6
        assert "PRIVATE" not in str(await stranger.get("/v1/trust"))
        await stranger.close()

    play(scenario)


def test_a_certificate_that_the_cluster_signed_for_nobody_in_it_is_refused(play: Play, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        own_member(first.agent.peers.files.authority(), tmp_path / "other", "da1", now_utc())
        context = caller_context(first.agent.peers.trust, tmp_path / "other" / "member.pem")
        stranger = caller(cluster, context)
        with pytest.raises(PorticoError) as error:
            await stranger.get("/v1/tickets")
        assert error.value.code == "NOT_A_MEMBER"
        await stranger.close()

    play(scenario)


def test_a_caller_takes_no_other_server_for_the_one_it_means(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        files = first.agent.peers.files
        wrong = caller(cluster, caller_context(first.agent.peers.trust, files.member), "da2")
        with pytest.raises(PeerUnreachable):
            await wrong.get("/v1/state")
        await wrong.close()

    play(scenario)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x00\xff" * 100 + b"\r\n\r\n", b"400"),
        (b"GET /v1/trust HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{{{{{", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        (b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", b"400"),
        (b"GET /v1/trust?" + b"a=1&" * 400 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"40"),
    ],
)
def test_hostile_requests_are_answered_and_the_listener_goes_on(play: Play, data: bytes, answer: bytes) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.found()
        assert answer in (await raw(cluster, data)).split(b"\r\n")[0]
        assert b"200" in (await raw(cluster, b"GET /v1/trust HTTP/1.1\r\nHost: x\r\n\r\n")).split(b"\r\n")[0]

    play(scenario)


def test_truncated_and_slow_requests_end(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_SECONDS", 0.3)

    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        assert await raw(cluster, b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{") == b""
        assert await raw(cluster, b"") == b""
        assert first.agent.peers.refusals.counts["broken or slow connection"] == 2

    play(scenario)


def test_strangers_do_not_use_up_the_connections_of_members(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        host = f"{cluster.network}.1"
        many = [
            await asyncio.open_connection(host, PORT, ssl=blind_context(), server_hostname="da1")
            for _ in range(listener.MAXIMUM_STRANGERS + 3)
        ]
        member = caller(cluster, caller_context(first.agent.peers.trust, first.agent.peers.files.member))
        assert (await member.get("/v1/state"))["version"] == 2
        await member.close()
        for _, writer in many:
            writer.close()
        assert first.agent.peers.refusals.counts["too many connections"] == 3

    play(scenario)


def test_no_secret_gets_into_the_log(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "portico")

    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = await cluster.token(first, "da3")
        second = await cluster.join(first, "da2")
        await second.change("report")
        text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("portico"))
        for secret in _secrets(first, JoinToken.parse(token)):
            assert secret not in text
        stored = (cluster.root / "da1" / "cluster" / "join_tokens.json").read_text()
        assert JoinToken.parse(token).secret not in stored + text

    play(scenario)


def _secrets(server: Server, token: JoinToken) -> list[str]:
    state = server.agent.peers.state
    authority = server.agent.credentials.authority
    assert state is not None and authority is not None
    keys = [key.key.hex() for key in state.keys] + [key.key.hex() for key in server.agent.credentials.tickets]
    return [*keys, token.secret, token.text, private_pem(authority.key).splitlines()[1]]


@given(st.binary(max_size=300))
def test_messages_of_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        body = messages.parse(data)
        messages.revision(body)
    except InvalidInput:
        pass


@given(st.text(max_size=200))
def test_join_tokens_of_any_text_are_read_or_refused(text: str) -> None:
    try:
        JoinToken.parse(text)
    except InvalidInput as error:
        assert error.code == "JOIN_TOKEN_MALFORMED"
