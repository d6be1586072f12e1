"""Files of the state that somebody else changes: named, and put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portico.files import remove_file, remove_tree, write_file
from portico.server import kept_files, upkeep
from portico.server.kept_files import KeptFiles
from portico.server.location import records


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for room in ("certificates", "management", "etcd"):
        (tmp_path / room).mkdir(mode=0o700)
    write_file(tmp_path / "applied.yaml", b"before the start")
    write_file(tmp_path / "certificates" / "ca.pem", b"public", mode=0o644)
    write_file(tmp_path / "settings.sqlite", b"pages")
    write_file(tmp_path / "installed.json", b"{}")
    return tmp_path


@pytest.fixture
def kept(state: Path) -> Iterator[KeptFiles]:
    found = KeptFiles(state)
    found.open()
    assert found.look() == []
    yield found
    found.close()


def content(state: Path) -> None:
    (state / "applied.yaml").write_bytes(b"BEFORE the start")


def forged(state: Path) -> None:
    """With the times and the size that it had."""
    path = state / "applied.yaml"
    was = path.stat()
    path.write_bytes(b"BEFORE the start")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def emptied(state: Path) -> None:
    (state / "applied.yaml").write_bytes(b"")


def removed(state: Path) -> None:
    (state / "certificates" / "ca.pem").unlink()


def readable(state: Path) -> None:
    (state / "settings.sqlite").chmod(0o644)


def linked(state: Path) -> None:
    (state / "applied.yaml").unlink()
    (state / "applied.yaml").symlink_to("/etc/hostname")


def opened(state: Path) -> None:
    (state / "certificates").chmod(0o755)


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (content, "set file {}/applied.yaml content"),
        (forged, "set file {}/applied.yaml content"),
        (emptied, "set file {}/applied.yaml content"),
        (removed, "add file {}/certificates/ca.pem"),
        (readable, "set file {}/settings.sqlite mode: 0644 -> 0600"),
        (linked, "set file {}/applied.yaml content"),
        (opened, "set file {}/certificates mode: 0755 -> 0700"),
    ],
)
def test_a_changed_file_is_named_and_put_back(
    kept: KeptFiles, state: Path, breakage: Callable[[Path], None], named: str
) -> None:
    breakage(state)
    names = [str(change) for change in kept.look()]
    assert any(text.startswith(named.format(state)) for text in names), names
    changes, failed = kept.repair()
    assert failed is None and [str(change) for change in changes] == names
    assert kept.look() == []
    path = state / "applied.yaml"
    assert not path.is_symlink() and path.read_bytes() == b"before the start" and path.stat().st_mode & 0o777 == 0o600
    assert (state / "certificates" / "ca.pem").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_was_given_to_another_account_is_taken_back(kept: KeptFiles, state: Path) -> None:
    os.chown(state / "applied.yaml", 65534, -1)
    assert [str(change) for change in kept.look()] == [f"set file {state}/applied.yaml owner: 65534 -> 0"]
    assert kept.repair()[1] is None
    assert kept.look() == [] and (state / "applied.yaml").stat().st_uid == 0


def test_what_the_agent_itself_writes_and_removes_is_no_drift(kept: KeptFiles, state: Path) -> None:
    write_file(state / "applied.yaml", b"another revision")
    write_file(state / "management" / "access.json", b"{}")
    remove_file(state / "certificates" / "ca.pem")
    assert kept.look() == []
    (state / "applied.yaml").write_bytes(b"theirs")
    kept.repair()
    assert (state / "applied.yaml").read_bytes() == b"another revision"
    remove_tree(state / "management")
    assert kept.look() == []


def test_files_that_others_write_too_are_theirs(kept: KeptFiles, state: Path) -> None:
    (state / "installed.json").write_text('{"user": true}')
    (state / "settings.sqlite").write_bytes(b"other pages")
    (state / "settings.sqlite").unlink()
    write_file(state / "etcd" / "server.pem", b"of another account")
    (state / "etcd" / "server.pem").chmod(0o640)
    (state / "new.json").write_text("nobody's")
    write_file(state / "interrupted.json", b"a note")
    (state / "interrupted.json").write_bytes(b"another")
    (state / "interrupted.json").unlink()
    assert kept.look() == []


def test_while_nothing_is_in_force_files_may_be_written(kept: KeptFiles, state: Path) -> None:
    kept.forget()
    (state / "applied.yaml").write_bytes(b"joined")
    assert kept.look() == []
    (state / "applied.yaml").write_bytes(b"theirs")
    kept.repair()
    assert (state / "applied.yaml").read_bytes() == b"joined"


def test_a_file_too_large_to_be_kept_is_named_and_its_loss_told(
    kept: KeptFiles, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_files, "KEPT_BYTES", 10)
    large = state / "certificates" / "revoked.json"
    write_file(large, b"x" * 11)
    large.write_bytes(b"theirs")
    changes, failed = kept.repair()
    assert len(changes) == 1 and failed is not None
    assert failed.code == "FILES_CHANGED" and "too large" in failed.why and str(large) in failed.why


def test_files_looked_at_are_bounded(kept: KeptFiles, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_files, "MAXIMUM", 8)
    for number in range(20):
        write_file(state / f"{number}.json", b"x")
    assert len(kept._kept) <= 9
    assert kept.look() == []


def test_every_look_comes_in_time() -> None:
    """What netlink does not report is named by the next look, however the one before ended."""
    assert upkeep.LOOK_INTERVAL + upkeep.RETRY_INTERVAL < 5
    assert records.SERIAL_INTERVAL + 1 < 5


def test_who_removes_a_file_of_the_state_tells() -> None:
    """Otherwise it would be put back. These remove what is not kept: databases, logs, temporary and others' files."""
    allowed = {
        "administration/audit.py", "certificates/ca.py", "server/backup/restoring.py", "server/backup/schedule.py",
        "server/bringing.py", "server/control.py", "server/etcd/member.py", "server/etcd/process.py",
        "server/install.py", "server/upgrade/wheels.py", "server/witness/joining.py", "settings/database.py",
    }  # fmt: skip
    root = Path(kept_files.__file__).parents[1]
    rooms = ("administration", "certificates", "server", "settings")
    found = {
        str(path.relative_to(root))
        for room in rooms
        for path in (root / room).rglob("*.py")
        if ".unlink(" in path.read_text() or "rmtree(" in path.read_text()
    }
    assert found <= allowed, "use portico.files.remove_file and remove_tree"
