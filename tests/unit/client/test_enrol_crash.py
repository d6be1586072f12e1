"""A kill at any step of an enrolment, a renewal or an unenrolment leaves this computer the old one or the new one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portico import files as files_module
from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import Issuer, make_request
from portico.certificates.store import CertificateStore
from portico.client import identity as identity_module
from portico.client.enrol import Enrolled
from portico.client.identity import ClientFiles, ClientSettings
from portico.errors import NotFound

NOW = datetime.now(UTC)


class Killed(BaseException):
    """The process ends here."""


def enrolled(directory: Path, name: str) -> Enrolled:
    """What a server of its own gives."""
    authority = CertificateAuthority.create(directory / name, name=name, now=NOW)
    issuer = Issuer(authority, CertificateStore.open(directory / name))
    key, request = make_request(name)
    chain = issuer.client(name, request, days=90, now=NOW)
    settings = ClientSettings(url=f"https://{name}.example.net:443/IPHTTPS", domain=f"{name}.example.net")
    return Enrolled(name, key, chain, authority.pem, settings)


def state(directory: Path) -> str | None:
    """Whose identity, trust and settings there are; fails when they do not belong together."""
    files = ClientFiles(directory)
    try:
        identity = files.identity()
    except NotFound:
        return None
    name = identity.certificate.subject.rfc4514_string().removeprefix("CN=")
    assert files.settings().domain == f"{name}.example.net"
    assert f"{name} Portico CA" in str(_subject(files.trust()))
    return name


def _subject(pem: str) -> str:
    from portico.certificates.trust import parse_certificates

    return parse_certificates(pem)[0].subject.rfc4514_string()


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool, run: Callable[[], None]) -> bool:
    """Runs with the process ending at the n-th write or removal; False when it has fewer."""
    left = number

    def dying(step: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Killed
            done = step(*arguments, **options)
            if left == 0:
                raise Killed
            return done

        return do

    with monkeypatch.context() as patch:
        patch.setattr(identity_module, "write_file", dying(files_module.write_file))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            run()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("former", [None, "old"], ids=["first", "again"])
def test_a_kill_during_an_enrolment(
    former: str | None, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = enrolled(tmp_path, "old"), enrolled(tmp_path, "new")
    seen = set()
    for number in range(1, 60):
        directory = tmp_path / str(number)
        if former is not None:
            old.save(ClientFiles(directory))
        killed = killed_at(monkeypatch, number, after=after, run=lambda d=directory: new.save(ClientFiles(d)))  # type: ignore[misc]
        found = state(directory)
        assert found in (former, "new")
        seen.add(found)
        assert state(directory) == found, "it stays that"
        if not killed:
            break
    else:
        pytest.fail("it has more steps than are tried")
    assert seen == ({former, "new"} if not after else {"new"})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_during_an_unenrolment(after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = enrolled(tmp_path, "old")
    for number in range(1, 60):
        directory = tmp_path / str(number)
        old.save(ClientFiles(directory))
        killed = killed_at(monkeypatch, number, after=after, run=lambda d=directory: ClientFiles(d).forget())  # type: ignore[misc]
        assert state(directory) in (None, "old")
        ClientFiles(directory).forget()
        assert state(directory) is None
        assert list(directory.iterdir()) == []
        if not killed:
            return
    pytest.fail("it has more steps than are tried")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_during_a_renewal(after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, renewed = enrolled(tmp_path, "old"), enrolled(tmp_path, "renewed")
    for number in range(1, 10):
        directory = tmp_path / str(number)
        old.save(ClientFiles(directory))
        killed = killed_at(
            monkeypatch,
            number,
            after=after,
            run=lambda d=directory: ClientFiles(d).save_identity(renewed.key_pem, renewed.chain_pem),  # type: ignore[misc]
        )
        identity = ClientFiles(directory).identity()
        assert (identity.key_pem, identity.chain_pem) in (
            (old.key_pem, old.chain_pem),
            (renewed.key_pem, renewed.chain_pem),
        )
        if not killed:
            return
    pytest.fail("it has more steps than are tried")
