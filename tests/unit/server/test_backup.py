"""A backup opens whole or not at all, and a restore leaves the old or the new state whenever it is killed."""

from __future__ import annotations

import io
import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from portico.certificates.store import CertificateStore
from portico.errors import Conflict, InvalidInput, NotFound
from portico.management.cli import backup as cli
from portico.server.backup import prepared, restoring
from portico.server.backup.archive import parse, read, snapshot, written
from portico.server.backup.container import CHUNK, HEADER, TAG, seal, unseal
from portico.server.backup.moving import move, parse_moves
from portico.server.backup.restoring import restore
from portico.settings.document import load_data
from portico.settings.store import SettingsStore

KEY = X25519PrivateKey.generate()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def archived(state: Path, data: dict[str, Any]) -> list[bytes]:
    store = SettingsStore.open(state)
    store.mark_applied(store.commit(load_data(data), expected=0, author="ada", now=NOW))
    store.close()
    CertificateStore.open(state / "certificates").close()
    with snapshot(state, server=None, now=NOW, accounting=False) as (manifest, copy):
        return list(written(manifest, copy))


def _sealed(plain: bytes) -> bytes:
    return b"".join(seal([plain], KEY.public_key()))


def _open(data: bytes) -> bytes:
    return b"".join(unseal(io.BytesIO(data), KEY))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_sealed_opens(size: int) -> None:
    plain = os.urandom(size)
    assert _open(_sealed(plain)) == plain


def test_every_changed_byte_and_every_cut_is_refused() -> None:
    data = _sealed(os.urandom(2 * CHUNK))
    for place in (0, 14, 15, 20, 50, HEADER, HEADER + CHUNK + TAG, len(data) - 1):
        with pytest.raises(InvalidInput):
            _open(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
    for length in (0, 10, HEADER, HEADER + 5, HEADER + CHUNK + TAG, len(data) - 1):
        with pytest.raises(InvalidInput):
            _open(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x09{",
        b"\x00\x00\x00\x02{}",
    ],
)
def test_hostile_contents_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read([data], None)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "cluster/../x", "other/x", ".hidden"])
def test_no_path_leaves_the_state(path: str) -> None:
    text = '{"format":1,"created":"","portico":"","server":null,"revision":1,"files":'
    text += '[["settings.sqlite",0,""],["%s",0,""]]}'
    parse((text % "cluster/x").encode())
    with pytest.raises(InvalidInput):
        parse((text % path).encode())


STEPS = ("private_directory", "read", "_verify", "write_file", "_sync", "_exchange", "_sync_directory", "_aside")


def test_what_a_process_has_still_to_do_is_in_no_backup(tmp_path: Path, data: dict[str, Any]) -> None:
    state = tmp_path / "server"
    archived(state, data)
    (state / "cluster").mkdir()
    passing = ("change.json", "left.json", "cluster/leaving.json")
    for name in (*passing, "cluster/secrets.json"):
        (state / name).write_text("{}")
    with snapshot(state, server=None, now=NOW, accounting=False) as (manifest, _):
        paths = {entry.path for entry in manifest.files}
    assert "cluster/secrets.json" in paths
    assert not paths & {*passing}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_state(
    step: str, after: bool, tmp_path: Path, data: dict[str, Any]
) -> None:
    state = tmp_path / "server"
    pieces = archived(tmp_path / "source", data)
    state.mkdir()
    (state / "settings.sqlite").write_bytes(b"old")
    child = os.fork()
    if child == 0:
        real = getattr(restoring, step)

        def killed(*arguments: object) -> object:
            if after:
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        setattr(restoring, step, killed)
        try:
            restoring.restore(pieces, state, now=NOW, force=True, dry_run=False)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    said = restoring.settle(state)
    old = (state / "settings.sqlite").read_bytes() == b"old"
    assert said == ("old" if old else "new") or (said is None and old)
    assert not list(tmp_path.glob("server.restoring-*"))
    assert old or (next(tmp_path.glob("server.before-*")) / "settings.sqlite").read_bytes() == b"old"


def test_existing_settings_are_replaced_only_by_force(tmp_path: Path, data: dict[str, Any]) -> None:
    pieces = archived(tmp_path / "source", data)
    state = tmp_path / "server"
    restoring.restore(pieces, state, now=NOW, force=False, dry_run=False)
    before = (state / "settings.sqlite").read_bytes()
    with pytest.raises(Conflict):
        restoring.restore(pieces, state, now=NOW, force=False, dry_run=False)
    assert (state / "settings.sqlite").read_bytes() == before
    shutil.rmtree(state)


def test_a_backup_of_another_machine_is_moved_to_this_one_s_names(tmp_path: Path, data: dict[str, Any]) -> None:
    source, target = tmp_path / "there", tmp_path / "here"
    data["server"]["internal_ipv4"] = "10.0.0.2"
    pieces = archived(source, data)
    old = data["server"]["internal_interface"]
    moves = parse_moves([f"{old}=ens9"], ["10.0.0.2=10.0.0.5"])
    done = restore(pieces, target, now=NOW, force=False, dry_run=False, moves=moves)
    store = SettingsStore.open(target)
    newest = store.latest()
    assert newest is not None and newest.number == done.manifest.revision == 2
    assert newest.settings.server.internal_interface == "ens9"
    assert str(newest.settings.server.internal_ipv4) == "10.0.0.5"
    applied = store.applied()
    assert applied is not None and applied.number == 2, "it serves from it at once"
    store.close()
    for interfaces, addresses, code in (
        (["eth77=ens9"], [], "MAPPING_UNUSED"),
        ([], ["10.99.0.1=10.0.0.5"], "MAPPING_UNUSED"),
    ):
        with pytest.raises(InvalidInput) as refused:
            restore(
                pieces, tmp_path / "no", now=NOW, force=False, dry_run=False, moves=parse_moves(interfaces, addresses)
            )
        assert refused.value.code == code
    assert not (tmp_path / "no").exists()
    for interfaces, addresses in ((["eth0"], []), (["eth0=a", "eth0=b"], []), ([], ["x=10.0.0.1"])):
        with pytest.raises(InvalidInput) as refused:
            parse_moves(interfaces, addresses)
        assert refused.value.code == "MAPPING_INVALID"


def test_every_place_of_an_address_is_moved() -> None:
    found = move(
        {"a": [{"b": "10.0.0.2/24"}, "10.0.0.2", "10.0.0.22"], "accept_interface": ["eth0", "lo"], "text": "eth0"},
        parse_moves(["eth0=ens3"], ["10.0.0.2=10.0.0.5"]),
    )
    assert found == {
        "a": [{"b": "10.0.0.5/24"}, "10.0.0.5", "10.0.0.22"], "accept_interface": ["ens3", "lo"], "text": "eth0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("accounts", "systemd", "unit", "said"),
    [
        ([], False, False, None),
        ([], True, True, None),
        ([], True, False, ("the unit portico-server.service", "packaging/install.sh")),
        (["portico-gateway"], True, False, ("portico-gateway and the unit", "packaging/install.sh")),
        (["portico-gateway"], True, True, ("the system users portico-gateway;", "portico server refresh")),
        (["portico-gateway"], False, False, ("the system users portico-gateway;", "portico server refresh")),
    ],
)
def test_a_machine_without_accounts_or_units_is_refused_before_anything_is_touched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accounts: list[str],
    systemd: bool,
    unit: bool,
    said: tuple[str, str] | None,
) -> None:
    monkeypatch.setattr(prepared, "missing_accounts", lambda: accounts)
    monkeypatch.setattr(prepared, "systemd_runs", lambda: systemd)
    monkeypatch.setattr(prepared, "installed_unit", lambda: Path("/unit") if unit else None)
    monkeypatch.setattr(cli, "server_state", lambda: tmp_path / "state")
    monkeypatch.setattr("portico.management.cli.output.require_root", lambda what: None)
    found = prepared.unprepared()
    assert (found is None) == (said is None)
    # The backup does not exist: only a machine that is prepared comes as far as looking for it.
    with pytest.raises(NotFound) as refused:
        cli.restore(tmp_path / "none.backup", passphrase_file=tmp_path / "none")
    assert (refused.value.code == "NOT_PREPARED") == (said is not None)
    assert not (tmp_path / "state").exists()
    if said is not None:
        assert said[0] in refused.value.why
        assert said[1] in refused.value.resolution
