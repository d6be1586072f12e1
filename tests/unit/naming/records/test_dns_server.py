"""Asking and updating a real name server (BIND) on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from base64 import b64decode
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.naming.records import ask, update
from portico.naming.records.ask import Member, look, zone_servers
from portico.naming.records.keys import check_keytab, read_tsig_key, secret_files
from portico.naming.records.plan import FaultKind, RecordChange, ServerView, changes, everything, faults
from portico.naming.records.render import render
from portico.naming.records.wanted import Purpose, WantedName
from portico.settings.addresses import DnsServer
from portico.settings.document import load_data
from portico.settings.location import CorporateDns
from tests.dns64.conftest import free_port, needed
from tests.unit.naming.records.conftest import ZONE, Bind, write_key
from tests.unit.naming.records.test_plan import DATA

PROBE = f"directaccess-WebProbeHost.{ZONE}"
WANTED = [
    WantedName(
        f"directaccess-corpConnectivityHost.{ZONE}",
        Purpose.CORP_CONNECTIVITY,
        (ip_address("127.0.0.1"), ip_address("fd7c:1a2b:3c4d:7777::7f00:1")),
    ),
    WantedName(PROBE, Purpose.WEB_PROBE, (ip_address("10.0.0.2"),)),
]


def section(bind: Bind, **changed: Any) -> CorporateDns:
    return CorporateDns.model_validate({"update": "tsig", "key_file": str(bind.key_file), **changed})


def seen(server: DnsServer, wanted: Sequence[WantedName] = WANTED) -> ServerView:
    (view,) = asyncio.run(look(ZONE, [Member((server,), "ns")], wanted))
    return view


def test_missing_records_are_written_with_the_key_and_then_right(bind: Bind) -> None:
    before = seen(bind.server)
    assert before.trouble == "" and before.serial == 1
    assert {fault.kind for fault in faults(WANTED, [before])} == {FaultKind.MISSING}
    update.write(section(bind), ZONE, bind.server, "", changes(WANTED, before))
    after = seen(bind.server)
    assert faults(WANTED, [after]) == []
    assert after.serial is not None and after.serial > 1
    assert bind.records(PROBE, "A") == ["10.0.0.2"]


def test_a_wrong_record_is_replaced(bind: Bind) -> None:
    wrong = [RecordChange(PROBE, "A", "10.0.0.99", "add"), RecordChange(PROBE, "AAAA", "fd00::9", "add")]
    update.write(section(bind), ZONE, bind.server, "", wrong)
    found = seen(bind.server)
    assert FaultKind.WRONG in {fault.kind for fault in faults(WANTED, [found])}
    update.write(section(bind), ZONE, bind.server, "", changes(WANTED, found))
    assert bind.records(PROBE, "A") == ["10.0.0.2"] and bind.records(PROBE, "AAAA") == []


def test_a_refresh_changes_nothing(bind: Bind) -> None:
    update.write(section(bind), ZONE, bind.server, "", everything(WANTED))
    serial = seen(bind.server).serial
    update.write(section(bind), ZONE, bind.server, "", everything(WANTED))
    assert seen(bind.server).serial == serial and faults(WANTED, [seen(bind.server)]) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("portico", "another one there"), ("stranger", "does not know the key")],
)
def test_a_wrong_key_is_refused_and_says_how(bind: Bind, tmp_path: Path, name: str, why: str) -> None:
    other = write_key(tmp_path / "other.key", name)
    with pytest.raises(NotPermitted) as caught:
        update.write(section(bind, key_file=str(other)), ZONE, bind.server, "", everything(WANTED))
    assert caught.value.code == "DNS_UPDATE_REFUSED" and why in caught.value.why
    assert bind.records(PROBE, "A") == []


def test_a_policy_that_forbids_the_name_is_an_error_with_a_way_out(bind: Bind) -> None:
    with pytest.raises(NotPermitted, match="REFUSED"):
        update.write(section(bind), ZONE, bind.server, "", [RecordChange(ZONE, "A", "10.0.0.2", "add")])


def test_an_alias_is_seen(bind: Bind) -> None:
    name = WantedName(f"alias.{ZONE}", Purpose.NLS, (ip_address("10.0.0.4"),))
    assert seen(bind.server, [name]).aliases == {f"alias.{ZONE}": f"app4.{ZONE}"}


def test_the_servers_of_a_zone_are_found_by_its_records(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "DnsServer", lambda address: DnsServer(address, bind.port))
    found = asyncio.run(zone_servers(ZONE, [], [bind.server], None))
    assert found.members == (Member((bind.server,), f"ns.{ZONE}"),)
    assert found.primary == found.members[0]


def test_configured_servers_are_taken_and_get_their_names(bind: Bind) -> None:
    found = asyncio.run(zone_servers(ZONE, [bind.server], [], bind.server))
    assert found.members == (Member((bind.server,), f"ns.{ZONE}"),) == (found.primary,)


def test_nobody_who_knows_the_zone_is_an_error() -> None:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(zone_servers(ZONE, [], [], None))
    assert caught.value.code == "DNS_ZONE_NOT_FOUND"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsServer]:
    monkeypatch.setattr(ask, "TIMEOUT", 0.1)
    with socket.socket(type=socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield DnsServer.parse(f"127.0.0.1:{deaf.getsockname()[1]}")


def test_a_silent_server_is_reported_and_the_others_are_asked(bind: Bind, silent: DnsServer) -> None:
    quiet, good = asyncio.run(look(ZONE, [Member((silent,)), Member((bind.server,))], WANTED))
    assert "no answer" in quiet.trouble and good.trouble == ""


def test_another_address_of_a_server_is_tried(bind: Bind, silent: DnsServer) -> None:
    (found,) = asyncio.run(look(ZONE, [Member((silent, bind.server), "ns")], WANTED))
    assert found.trouble == "" and found.server == bind.server


def test_a_server_that_does_not_have_the_zone_says_so(bind: Bind) -> None:
    (found,) = asyncio.run(
        look("other.example", [Member((bind.server,))], [WantedName("a.other.example", Purpose.NLS, ())])
    )
    assert "REFUSED" in found.trouble


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\xff" * 40, bytes(12), bytes(600)])
def test_garbage_for_an_answer_is_trouble_and_no_crash(garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "TIMEOUT", 0.2)
    with socket.socket(type=socket.SOCK_DGRAM) as liar:
        liar.bind(("127.0.0.1", 0))
        port = liar.getsockname()[1]

        def lie() -> None:
            for _ in range(2):
                asked, peer = liar.recvfrom(4096)
                liar.sendto(asked[:2] + garbage, peer)

        thread = threading.Thread(target=lie, daemon=True)
        thread.start()
        assert seen(DnsServer.parse(f"127.0.0.1:{port}")).trouble


def test_what_is_printed_for_nsupdate_does_the_same(bind: Bind) -> None:
    program = needed("nsupdate", "bind9-dnsutils")
    text = render("nsupdate", WANTED, zone=ZONE, ttl=600, server=f"127.0.0.1 {bind.port}")
    subprocess.run([program, "-k", str(bind.key_file)], input=text, text=True, check=True, timeout=20)
    assert faults(WANTED, [seen(bind.server)]) == []


def test_what_is_printed_as_a_zone_is_one(tmp_path: Path) -> None:
    program = needed("named-checkzone", "bind9-utils")
    head = f"$TTL 60\n$ORIGIN {ZONE}.\n@ IN SOA ns root 1 1 1 1 1\n@ IN NS ns\nns IN A 10.0.0.53\n"
    (tmp_path / "zone").write_text(head + render("zone", WANTED, zone=ZONE, ttl=600))
    subprocess.run([program, ZONE, str(tmp_path / "zone")], check=True, stdout=subprocess.DEVNULL, timeout=20)


def test_no_server_at_all_is_tried_again_later() -> None:
    key = {"update": "tsig", "key_file": "/nonexistent"}
    with pytest.raises(PorticoError, match="no such file"):
        update.write(CorporateDns.model_validate(key), ZONE, DnsServer.parse("127.0.0.1"), "", everything(WANTED))


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    key = write_key(tmp_path / "k")
    server = DnsServer.parse(f"127.0.0.1:{free_port()}")
    chosen = CorporateDns.model_validate({"update": "tsig", "key_file": str(key)})
    with pytest.raises(Unavailable, match=re_escape(str(server))):
        update.write(chosen, ZONE, server, "", everything(WANTED))


def re_escape(text: str) -> str:
    return text.replace(".", r"\.")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("hello", "0 keys"),
        ('key "a" { algorithm hmac-md5; secret "MTIzNDU2Nzg5MDEyMzQ1Ng=="; };', "not accepted"),
        ('key "a" { algorithm hmac-sha256; secret "MTIz"; };', "3 bytes"),
        ('key "a" { algorithm hmac-sha256; secret "MTI"; };', "base64"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match=why):
        read_tsig_key(path)


def test_comments_are_none_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(
        '# made\nkey "a" { // one\n algorithm hmac-sha256; /* b"64 */ secret "//8vL//+MTIzNDU2Nzg5MDEyMw=="; };\n'
    )
    path.chmod(0o600)
    assert read_tsig_key(path).secret == b64decode("//8vL//+MTIzNDU2Nzg5MDEyMw==")


def test_secrets_that_others_may_read_are_refused_and_stay_out_of_representations(tmp_path: Path) -> None:
    path = write_key(tmp_path / "key", secret=b"0123456789abcdef")
    assert read_tsig_key(path).secret == b"0123456789abcdef"
    assert "0123456789abcdef" not in repr(read_tsig_key(path))
    path.chmod(0o640)
    for read in (read_tsig_key, check_keytab):
        with pytest.raises(NotPermitted) as caught:
            read(path)
        assert caught.value.code == "SECRET_FILE_EXPOSED"
    settings = load_data({**DATA, "corporate_dns": {"update": "tsig", "key_file": str(path)}})
    (found,) = secret_files(settings)
    assert "0640" in found.trouble and "chmod" in found.resolution
    path.chmod(0o600)
    assert [file.trouble for file in secret_files(settings)] == [""]


def test_a_file_that_is_no_keytab_is_refused(tmp_path: Path) -> None:
    path = write_key(tmp_path / "key")
    with pytest.raises(InvalidInput) as caught:
        check_keytab(path)
    assert caught.value.code == "KEYTAB_INVALID"
