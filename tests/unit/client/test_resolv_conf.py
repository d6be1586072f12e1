"""Taking resolv.conf over and giving it back, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.client.resolv_conf import MARKER, ResolvConfFile, kept, parse, render
from portico.errors import Unavailable

BEFORE = "# by hand\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch home.example\noptions ndots:2\n"


@pytest.fixture
def file(tmp_path: Path) -> ResolvConfFile:
    (tmp_path / "etc").mkdir()
    (tmp_path / "state").mkdir()
    return ResolvConfFile(tmp_path / "etc" / "resolv.conf", tmp_path / "state" / "resolv.conf.before")


def take(file: ResolvConfFile) -> bool:
    return file.take(address="127.0.0.1", search=["corp.example.net"])


def test_a_file_comes_back_byte_for_byte_with_its_mode(file: ResolvConfFile) -> None:
    file.path.write_text(BEFORE)
    file.path.chmod(0o600)
    assert take(file)
    ours = parse(file.path.read_text())
    assert ours.nameservers == ("127.0.0.1",)
    assert ours.search == ("home.example", "corp.example.net")
    assert ours.options == ("ndots:2",)
    assert file.upstream().nameservers == ("192.0.2.1", "2001:db8::1")
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert file.give_back()
    assert file.path.read_text() == BEFORE
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert not file.record.exists()


def test_a_symbolic_link_comes_back_and_its_target_is_followed_meanwhile(file: ResolvConfFile) -> None:
    target = file.path.parent / "run.conf"
    target.write_text("nameserver 192.0.2.1\n")
    file.path.symlink_to("run.conf")
    take(file)
    assert target.read_text() == "nameserver 192.0.2.1\n"
    seen = file.signature()
    target.write_text("nameserver 192.0.2.222\n")
    assert file.signature() != seen
    assert file.upstream().nameservers == ("192.0.2.222",)
    file.give_back()
    assert file.path.is_symlink()
    assert str(file.path.readlink()) == "run.conf"


def test_a_dangling_link_and_a_missing_file_come_back_as_they_were(file: ResolvConfFile) -> None:
    take(file)
    assert file.upstream().nameservers == ()
    file.give_back()
    assert not file.path.exists()
    file.path.symlink_to("/nonexistent/resolv.conf")
    take(file)
    file.give_back()
    assert str(file.path.readlink()) == "/nonexistent/resolv.conf"


def test_a_crash_does_not_make_our_own_file_the_former_one(file: ResolvConfFile) -> None:
    file.path.write_text(BEFORE)
    take(file)
    again = ResolvConfFile(file.path, file.record)
    assert not take(again)
    assert again.upstream().nameservers == ("192.0.2.1", "2001:db8::1")
    again.give_back()
    assert file.path.read_text() == BEFORE


@pytest.mark.parametrize("damage", [None, b"", b"{", b'{"version": 1}', b"\xff" * 100])
def test_a_lost_or_damaged_record_does_not_lose_the_former_file(file: ResolvConfFile, damage: bytes | None) -> None:
    file.path.write_text(BEFORE)
    take(file)
    file.record.unlink()
    if damage is not None:
        file.record.write_bytes(damage)
    assert file.upstream().nameservers == ("192.0.2.1", "2001:db8::1")
    take(file)
    assert file.upstream().nameservers == ("192.0.2.1", "2001:db8::1")
    assert file.give_back()
    assert file.path.read_text() == BEFORE


def test_what_somebody_else_wrote_is_never_overwritten_by_the_former_file(file: ResolvConfFile) -> None:
    file.path.write_text(BEFORE)
    take(file)
    file.path.write_text("nameserver 192.0.2.99\n")
    assert not file.is_ours()
    assert file.upstream().nameservers == ("192.0.2.99",)
    assert take(file)
    assert file.upstream().nameservers == ("192.0.2.99",)
    file.path.write_text("nameserver 192.0.2.100\n")
    assert not file.give_back()
    assert file.path.read_text() == "nameserver 192.0.2.100\n"


def test_a_record_without_a_takeover_is_harmless(file: ResolvConfFile) -> None:
    file.path.write_text(BEFORE)
    file.record.write_text("left over")
    assert not file.give_back()
    assert file.path.read_text() == BEFORE
    assert not file.record.exists()


def test_a_directory_in_its_place_is_refused_by_name(file: ResolvConfFile) -> None:
    file.path.mkdir()
    with pytest.raises(Unavailable, match=r"resolv\.conf"):
        take(file)


@given(st.text(max_size=300))
def test_any_former_text_survives_in_the_comments(before: str) -> None:
    text = render(before, address="127.0.0.1", search=["corp.example.net"])
    assert text.startswith(MARKER)
    assert parse(text).nameservers == ("127.0.0.1",)
    assert parse(kept(text)) == parse(before)
