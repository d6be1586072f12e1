"""A machine joins with one token, or not at all."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from portico.errors import PorticoError
from portico.server.cluster_secrets import ClusterFiles
from portico.server.credentials import now_utc
from portico.server.peers.tokens import JoinToken
from tests.unit.server.peers.conftest import Cluster, Scenario, until

Play = Callable[[Scenario], None]


def test_a_second_server_has_the_settings_and_the_secrets(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        first.agent.credentials.issuer().server("other.example.net", days=1, now=now_utc())
        second = await cluster.join(first, "da2", weight=70)
        balancing = second.agent.store().latest().settings.load_balancing  # type: ignore[union-attr]
        assert balancing is not None
        entry = balancing.server("da2")
        assert entry is not None
        assert (entry.priority, entry.weight) == (2, 70)
        assert [str(a) for a in entry.internal_dedicated_addresses] == ["10.0.0.12/24"]
        assert second.in_force == first.in_force
        assert second.agent.peers.secrets() == first.agent.peers.secrets()
        assert second.agent.credentials.tickets == first.agent.credentials.tickets
        assert second.agent.credentials.authority is not None and first.agent.credentials.authority is not None
        assert second.agent.credentials.authority.pem == first.agent.credentials.authority.pem
        names = {record.name for record in second.agent.credentials.usable_store().issued()}
        assert "other.example.net" in names
        for path in (cluster.root / "da2").rglob("*"):
            if path.is_file() and path.name not in ("ca.pem", "crl.pem"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    play(scenario)


@pytest.mark.parametrize("change", ["secret", "id", "pin"])
def test_a_wrong_token_changes_nothing(play: Play, change: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = JoinToken.parse(await cluster.token(first, "da2"))
        wrong = replace(token, **{change: "0" * 64})  # type: ignore[arg-type]
        joining = cluster.joining(wrong.text, "da2")
        with pytest.raises(PorticoError) as error:
            await asyncio.to_thread(joining.ask)
        assert error.value.code == ("PIN_DIFFERS" if change == "pin" else "TOKEN_REFUSED")
        assert first.in_force[0] == 2
        assert not (cluster.root / "da2" / "settings.sqlite").exists()
        assert not ClusterFiles(cluster.root / "da2").exists()

    play(scenario)


def test_a_token_serves_one_machine_only(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = await cluster.token(first, "da2")
        await asyncio.to_thread(cluster.joining(token, "da2").ask)
        other = cluster.joining(token, "da2")
        other.state = cluster.root / "elsewhere"
        with pytest.raises(PorticoError) as error:
            await asyncio.to_thread(other.ask)
        assert error.value.code == "TOKEN_REFUSED"
        again = cluster.joining(token, "da2")
        await asyncio.to_thread(again.ask)  # the same machine: its first answer may have been lost
        assert first.in_force[0] == 3

    play(scenario)


def test_three_wrong_secrets_burn_a_token(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = JoinToken.parse(await cluster.token(first, "da2"))
        for text in [replace(token, secret="wrong").text] * 3 + [token.text]:
            with pytest.raises(PorticoError) as error:
                await asyncio.to_thread(cluster.joining(text, "da2").ask)
            assert error.value.code == "TOKEN_REFUSED"

    play(scenario)


def test_an_expired_token_is_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = await cluster.token(first, "da2")
        later = now_utc().replace(year=now_utc().year + 1)
        monkeypatch.setattr("portico.server.peers.token_desk.now_utc", lambda: later)
        with pytest.raises(PorticoError) as error:
            await asyncio.to_thread(cluster.joining(token, "da2").ask)
        assert error.value.code == "TOKEN_REFUSED"

    play(scenario)


def test_another_version_is_refused_and_keeps_its_token(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        token = await cluster.token(first, "da2")
        with monkeypatch.context() as patch:
            patch.setattr("portico.server.peers.joining.__version__", "0.0.1")
            with pytest.raises(PorticoError) as error:
                await asyncio.to_thread(cluster.joining(token, "da2").ask)
        assert error.value.code == "VERSION_DIFFERS"
        await asyncio.to_thread(cluster.joining(token, "da2").ask)

    play(scenario)


def test_a_join_that_fails_on_the_new_machine_is_taken_back(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        joining = cluster.joining(await cluster.token(first, "da2"), "da2")
        await asyncio.to_thread(joining.ask)
        assert first.agent.peers.state is not None and "da2" in first.agent.peers.state.members
        await asyncio.to_thread(joining.abandon)
        await until(lambda: "da2" not in first.agent.peers.state.members)  # type: ignore[union-attr]
        document = first.agent.store().latest().settings  # type: ignore[union-attr]
        assert document.load_balancing is not None
        assert [server.name for server in document.load_balancing.servers] == ["da1"]
        assert not ClusterFiles(cluster.root / "da2").exists()

    play(scenario)


def test_a_join_that_was_never_finished_is_taken_back_when_its_token_ends(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        await asyncio.to_thread(cluster.joining(await cluster.token(first, "da2"), "da2").ask)
        later = now_utc().replace(year=now_utc().year + 1)
        monkeypatch.setattr("portico.server.peers.admission.now_utc", lambda: later)
        await until(lambda: "da2" not in first.agent.peers.state.members)  # type: ignore[union-attr]
        await until(lambda: first.in_force[0] == 4)

    play(scenario)


def test_a_cluster_ends_with_its_secrets(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        former = first.agent.store().get(1).settings
        await first.agent.change(former, expected=None, author="test")
        assert not (cluster.root / "da1" / "cluster").exists()
        await until(lambda: second.agent.problem is not None)
        # An empty database is there again at once: the server looks for settings as one that was never installed.
        await until(lambda: second.agent.store().latest() is None)
        assert not (cluster.root / "da2" / "certificates" / "authority.pem").exists()

    play(scenario)
