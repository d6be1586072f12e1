from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from portico.errors import PorticoError, Unavailable
from portico.files import private_directory, read_file, write_file


def test_a_file_is_replaced_whole_and_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    before = os.umask(0)
    try:
        write_file(path, b"one")
        write_file(path, b"two")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_file(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_becomes_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    private_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_what_cannot_be_read_is_named_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(b"x" * 11)
    expected = {"missing": "FILE_MISSING", "empty": "FILE_EMPTY", "large": "FILE_TOO_LARGE", ".": "FILE_NOT_REGULAR"}
    for name, code in expected.items():
        with pytest.raises(PorticoError, match=str(tmp_path)) as caught:
            read_file(tmp_path / name, limit=10)
        assert caught.value.code == code
    with pytest.raises(PorticoError, match="null"):
        read_file(Path("a\0b"))
