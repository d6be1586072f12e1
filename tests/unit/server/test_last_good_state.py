"""A server that starts again beside a damaged file: the last good state serves, and the status names the file."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import make_request
from portico.errors import PorticoError
from portico.server.agent import Agent
from portico.server.credentials import DIRECTORY, now_utc
from portico.settings.document import load_data
from portico.settings.model import Settings
from portico.transition.gateway_config import GatewaySecrets
from tests.unit.damage import KINDS, damage

DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {
        "name": "da1",
        "internet_interface": "lo",
        "internal_interface": "lo",
        "internal_ipv4": "127.0.0.1",
        "workers": 1,
    },
}


class Killed(BaseException):
    """The process ends here: no handler of PorticoError or Exception runs any more."""


class Server:
    """An agent without a kernel and a gateway; `secrets` is what the gateway would have been given."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = Agent(state)
        self.secrets: GatewaySecrets | None = None
        platform = self.agent.platform

        async def apply(settings: Settings, values: Any) -> list[Any]:
            self.secrets = await asyncio.to_thread(platform.credentials.secrets, settings, now_utc())
            platform.settings, platform.values = settings, values
            return []

        async def refresh() -> None:
            if platform.settings is not None:
                self.secrets = await asyncio.to_thread(platform.credentials.secrets, platform.settings, now_utc())

        async def nothing(*_: Any, **__: Any) -> list[Any]:
            return []

        async def no_sessions(*_: Any) -> int:
            return 0

        async def rests() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(platform, "apply", apply)
        monkeypatch.setattr(platform, "refresh", refresh)
        monkeypatch.setattr(platform, "drift", nothing)
        monkeypatch.setattr(platform, "stop", nothing)
        monkeypatch.setattr(platform.gateway, "sessions", nothing)
        monkeypatch.setattr(platform.gateway, "disconnect", no_sessions)
        monkeypatch.setattr(self.agent, "check", nothing)
        monkeypatch.setattr(self.agent.location, "run", rests)  # its process needs an account of its own

    @property
    def certificate(self) -> str:
        assert self.secrets is not None
        return self.secrets.certificate_chain

    @property
    def revoked(self) -> set[str]:
        assert self.secrets is not None
        return {entry["serial"] for entry in self.secrets.revoked}


def make_authority(state: Path) -> CertificateAuthority:
    return CertificateAuthority.create(state / DIRECTORY, name="corp.example.net", now=now_utc())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A state directory that has served: (path, its server certificate, the serial number revoked)."""
    state = tmp_path_factory.mktemp("served") / "state"

    async def body() -> tuple[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            server = Server(state, patch)
            serial = await install(server, load_data(DATA))
            return server.certificate, serial

    return state, *asyncio.run(body())


async def install(server: Server, settings: Settings) -> str:
    """Two revisions, two clients, one of them revoked; returns the revoked serial number."""
    agent = server.agent
    if agent.credentials.authority is None:
        make_authority(agent.state)
        agent.credentials.reload_authority()
    await agent.start()
    await agent.change(settings, expected=0, author="test")
    changed = settings.model_copy(update={"drift": "report"})
    await agent.change(changed, expected=1, author="test")
    for name in ("good", "lost"):
        agent.credentials.issuer().client(name, make_request(name)[1], days=90, now=now_utc())
    serials, _ = await agent.revoke(name="lost", serial=None, reason="key-compromise")
    await agent.stop()
    return serials[0]


FILES = {
    "settings database": "settings.sqlite",
    "applied settings": "applied.yaml",
    "certificate database": f"{DIRECTORY}/certificates.sqlite",
    "CA": f"{DIRECTORY}/authority.pem",
    "CA certificate": f"{DIRECTORY}/ca.pem",
    "server identity": f"{DIRECTORY}/server.pem",
    "ticket keys": f"{DIRECTORY}/ticket_keys.json",
    "revocation list": f"{DIRECTORY}/crl.pem",
    "last revocations": f"{DIRECTORY}/revoked.json",
    "last seen": "seen.json",
    "progress": "revisions.json",
    "ledger": "kernel.json",
}
MADE_AGAIN = {"CA certificate", "server identity", "ticket keys", "revocation list", "last revocations", "ledger"}
"""Nobody needs to know for longer than a line of the log: they are written anew from what is there."""
UNNOTICED = {"applied settings", "last seen", "progress"}
"""Missing is how they begin."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_server_starts_beside_a_damaged_file(
    name: str,
    kind: str,
    served: tuple[Path, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "portico")
    former, certificate, serial = served

    async def body() -> None:
        shutil.copytree(former, tmp_path / "state")
        path = tmp_path / "state" / FILES[name]
        if not path.exists():
            path.write_text("{}")
        damage(path, kind)
        caplog.clear()
        second = Server(tmp_path / "state", monkeypatch)
        await second.agent.start()
        status = await second.agent.status()
        try:
            assert second.agent.problem is None, str(second.agent.problem)
            assert status["revision"] == 2
            if name != "server identity":
                assert second.certificate == certificate
            assert serial in second.revoked
            assert second.secrets is not None
            assert "BEGIN CERTIFICATE" in second.secrets.client_ca
            harmless = kind == "too large" and "database" in name
            if not harmless and name != "CA certificate" and not (kind == "missing" and name in MADE_AGAIN | UNNOTICED):
                told = str(status["warnings"]) + str(status["settings_damage"]) + caplog.text
                assert str(path) in told or name == "server identity", told
        finally:
            await second.agent.stop()

    asyncio.run(body())


IMPORTED = ("chain.pem", "key.pem", "clients.pem", "clients.crl")


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMPORTED)
def test_imported_files_that_are_damaged_stay_what_they_were(
    name: str, kind: str, restarted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portico.certificates.issue import Issuer
    from portico.certificates.revocation import revoke, write_crl
    from portico.certificates.store import CertificateStore

    store = CertificateStore.open(tmp_path / "foreign")
    authority = CertificateAuthority.create(tmp_path / "foreign", name="foreign", now=now_utc())
    issuer = Issuer(authority, store)
    identity = issuer.server("da.example.net", days=90, now=now_utc())
    issuer.client("foreign", make_request("foreign")[1], days=90, now=now_utc())
    foreign = revoke(store, name="foreign", now=now_utc())[0].serial
    (tmp_path / "chain.pem").write_text(identity.chain_pem)
    (tmp_path / "key.pem").write_text(identity.key_pem)
    (tmp_path / "clients.pem").write_text(authority.pem)
    write_crl(authority, store, tmp_path, now_utc()).rename(tmp_path / "clients.crl")
    certificates = {
        "mode": "imported",
        "server_certificate": str(tmp_path / "chain.pem"),
        "server_key": str(tmp_path / "key.pem"),
        "client_ca": [str(tmp_path / "clients.pem")],
        "crl": [str(tmp_path / "clients.crl")],
    }

    async def body() -> None:
        server = Server(tmp_path / "state", monkeypatch)
        await server.agent.start()
        await server.agent.change(load_data({**DATA, "certificates": certificates}), expected=0, author="test")
        before = server.secrets
        assert before is not None
        assert foreign in server.revoked
        damage(tmp_path / name, kind)
        if restarted:
            await server.agent.stop()
            server = Server(tmp_path / "state", monkeypatch)
            await server.agent.start()
        else:
            await server.agent.platform.refresh()
        status = await server.agent.status()
        await server.agent.stop()
        assert server.agent.problem is None, str(server.agent.problem)
        assert server.secrets is not None
        assert server.secrets.certificate_chain == before.certificate_chain
        assert server.secrets.private_key == before.private_key
        assert server.secrets.client_ca == before.client_ca
        assert server.secrets.revoked == before.revoked
        assert str(tmp_path / name) in str(status["warnings"])

    asyncio.run(body())


def test_a_lost_key_of_the_ca_is_not_replaced_by_a_new_ca(tmp_path: Path) -> None:
    make_authority(tmp_path)
    (tmp_path / DIRECTORY / "authority.pem").unlink()
    with pytest.raises(PorticoError, match="its key is lost"):
        make_authority(tmp_path)


# Crash safety: the process ends before or after any step, and the next one finds the old or the new state.

STEPS = (
    "portico.settings.store.write_file",
    "portico.server.progress.write_file",
    "portico.server.roster.write_file",
    "portico.certificates.revocation.write_file",
    "portico.certificates.renewal.write_file",
    "portico.certificates.tickets.write_file",
    "portico.settings.database.Database.transaction",
    "portico.settings.store.SettingsStore.commit",
    "portico.settings.store.SettingsStore.mark_applied",
)


class Reaper:
    """Ends the process at the n-th step of those it watches, before or after it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.after = False
        for step in STEPS:
            module, _, name = step.rpartition(".")
            monkeypatch.setattr(step, self._wrapped(_resolve(module, name)))

    def at(self, number: int | None, *, after: bool = False) -> None:
        self.left, self.after = number, after

    def _wrapped(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if self.left is None:
                return step(*arguments, **options)
            self.left -= 1
            if self.left <= 0 and not self.after:
                raise Killed
            done = step(*arguments, **options)
            if self.left <= 0:
                raise Killed
            return done

        return run


def _resolve(module: str, name: str) -> Callable[..., Any]:
    import importlib

    try:
        owner: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        parent, _, attribute = module.rpartition(".")
        owner = getattr(importlib.import_module(parent), attribute)
    found: Callable[..., Any] = getattr(owner, name)
    return found


def close(server: Server) -> None:
    """What the kernel does for a process that is killed."""
    server.agent.credentials.close()
    server.agent.transactions.close()


async def abandon(server: Server) -> None:
    for task in list(server.agent._tasks):
        task.cancel()
    await asyncio.gather(*server.agent._tasks, return_exceptions=True)
    server.agent.upkeep.close()
    close(server)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_step_of_a_change_leaves_the_old_settings_or_the_new(
    after: bool, served: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        with monkeypatch.context() as patch:
            reaper = Reaper(patch)
            seen = set()
            for number in range(1, 40):
                state = tmp_path / str(number)
                shutil.copytree(served[0], state)
                server = Server(state, patch)
                await server.agent.start()
                new = load_data({**DATA, "ip_https": {"port": 8443}})
                reaper.at(number, after=after)
                killed = False
                try:
                    await server.agent.change(new, expected=2, author="test")
                except Killed:
                    killed = True
                reaper.at(None)
                await abandon(server)
                again = Server(state, patch)
                await again.agent.start()
                assert again.agent.problem is None
                assert again.agent.store().damage is None
                latest, applied = again.agent.store().latest(), again.agent.store().applied()
                assert latest is not None
                assert applied is not None
                assert latest.number == applied.number == again.agent.revision.number  # type: ignore[union-attr]
                port = latest.settings.ip_https.port
                assert (latest.number, port) in ((2, 443), (3, 8443))
                assert again.agent.platform.settings is not None
                assert again.agent.platform.settings.ip_https.port == port
                seen.add(port)
                outcome = await again.agent.change(new, expected=latest.number, author="test")
                assert outcome.revision is not None
                assert outcome.revision.number == 3
                await again.agent.stop()
                if not killed:
                    break
            else:
                pytest.fail("the change has more steps than are tried")
            assert seen == {443, 8443}

    asyncio.run(body())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_step_of_a_revocation_never_lets_the_client_back_in(
    after: bool, served: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        with monkeypatch.context() as patch:
            reaper = Reaper(patch)
            for number in range(1, 40):
                state = tmp_path / str(number)
                lost = served[2]
                shutil.copytree(served[0], state)
                server = Server(state, patch)
                await server.agent.start()
                (good,) = [c.serial async for c in server.agent.clients() if c.name == "good"]
                reaper.at(number, after=after)
                killed = False
                try:
                    await server.agent.revoke(name="good", serial=None, reason="unspecified")
                except Killed:
                    killed = True
                reaper.at(None)
                await abandon(server)
                again = Server(state, patch)
                await again.agent.start()
                recorded = {r.serial for r in again.agent.credentials.usable_store().revoked()}
                assert again.revoked == recorded, "the gateway and the records agree"
                assert lost in recorded
                assert killed or good in recorded
                serials, _ = await again.agent.revoke(name="good", serial=None, reason="unspecified")
                assert serials == ([] if good in recorded else [good])
                await again.agent.stop()
                if not killed:
                    break
            else:
                pytest.fail("the revocation has more steps than are tried")

    asyncio.run(body())
