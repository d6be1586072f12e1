"""Every file the product reads, in every way it can be wrong: an error that names it, never a traceback or a hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_interface
from pathlib import Path

import pytest

from portico.certificates import imported
from portico.certificates.ca import AUTHORITY_NAME, PUBLIC_NAME, CertificateAuthority
from portico.certificates.issue import Issuer, make_request
from portico.certificates.renewal import SERVER_NAME, ensure_server_identity, load_identity
from portico.certificates.revocation import (
    CRL_NAME,
    REVOKED_NAME,
    Revoked,
    load_revoked,
    read_crl,
    save_revoked,
    write_crl,
)
from portico.certificates.store import DATABASE_NAME as CERTIFICATES_NAME
from portico.certificates.store import CertificateStore
from portico.certificates.tickets import TICKETS_NAME, load_tickets, rotate_tickets, save_tickets
from portico.client.identity import ClientFiles, ClientSettings, KnownAddresses, LocalSettings, Wish
from portico.client.resolv_conf import ResolvConfFile
from portico.errors import PorticoError
from portico.files import read_file
from portico.lab import state as lab_state
from portico.management.cli import client as client_cli
from portico.management.cli import settings as settings_cli
from portico.server import control, install, roster
from portico.server.kept_files import MADE_NAME
from portico.server.machine import NAME_FILE, read_own_name
from portico.server.progress import Progress, Stage
from portico.server.reconcile.host_entry import Entry, Held
from portico.server.reconcile.ledger import Ledger
from portico.settings.document import dump, load_data, load_file
from portico.settings.model import Certificates, Settings
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, SettingsStore
from tests.unit.damage import KINDS, damage

NOW = datetime.now(UTC)
DOCUMENT = load_data(
    {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fd7c:1a2b:3c4d::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    }
)
CLIENT_SETTINGS = ClientSettings(url="https://da.example.net:443/IPHTTPS", domain="corp.example.net")


@dataclass(frozen=True)
class File:
    """A file of the product: how it comes to be, and the code that reads it.

    Attributes:
        read: raises PorticoError when the file cannot be used; a reader that gets along without it says so in the log.
        gets_along: the reader does not raise: what it reads is worth less than the service.
        may_be_missing: no file is a state of its own (nothing was kept yet), nothing to report.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    gets_along: bool = False
    may_be_missing: bool = False
    never_damaged: tuple[str, ...] = ()


def settings_store(directory: Path) -> Path:
    store = SettingsStore.open(directory)
    store.commit(DOCUMENT, expected=0, author="test", now=NOW)
    store.mark_applied(store.latest() or pytest.fail())
    store.close()
    return directory / DATABASE_NAME


def applied(directory: Path) -> Path:
    settings_store(directory)
    (directory / DATABASE_NAME).unlink()
    return directory / APPLIED_NAME


def read_store(directory: Path) -> None:
    store = SettingsStore.open(directory)
    try:
        assert store.applied() is not None, "the last good state is there"
        if store.damage is not None:
            raise store.damage
    finally:
        store.close()


def read_applied(directory: Path) -> None:
    problem = SettingsStore(directory, None, None).applied_problem()
    if problem is not None:
        raise problem


def certificates(directory: Path) -> Issuer:
    store = CertificateStore.open(directory)
    authority = CertificateAuthority.create(directory, name="test", now=NOW)
    issuer = Issuer(authority, store)
    ensure_server_identity(directory, issuer, connect_to="da.example.net", days=90, renew_before_days=30, now=NOW)
    write_crl(authority, store, directory, NOW)
    save_revoked(directory, [Revoked("aa" * 32, "1f")])
    save_tickets(directory, rotate_tickets((), NOW))
    imported.save_kept(directory, {"/a": "PEM"})
    return issuer


def certificate_file(name: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        certificates(directory).store.close()
        return directory / name

    return make


def read_crl_of(directory: Path) -> None:
    read_crl(directory / CRL_NAME, [CertificateAuthority.load(directory).certificate])


def import_file(name: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        identity = certificates(directory).server("da.example.net", days=90, now=NOW)
        (directory / "chain.pem").write_text(identity.chain_pem)
        (directory / "key.pem").write_text(identity.key_pem)
        return directory / name

    return make


def read_imported(directory: Path) -> None:
    imported.load_imported(
        Certificates(
            mode="imported",
            server_certificate=str(directory / "chain.pem"),
            server_key=str(directory / "key.pem"),
            client_ca=[str(directory / PUBLIC_NAME)],
        )
    )


def flow(document: Settings) -> bytes:
    """A document as YAML's flow style, which JSON is."""
    return json.dumps(document.as_data()).encode()


def written(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        (directory / name).write_bytes(data)
        return directory / name

    return make


def ledger(directory: Path) -> Path:
    made = Ledger(directory / "kernel.json", "boot")
    made.remember_sysctl("net/ipv6/conf/all/forwarding", "0", "1")
    vip = ip_interface("203.0.113.11/24")
    made.set_host_addresses("eth0", Entry(3, [Held(vip, b"message")], {vip.ip}, set(), [b"route"]))
    return directory / "kernel.json"


def read_ledger(directory: Path) -> None:
    found = Ledger(directory / "kernel.json", "boot")
    if found.damage is not None:
        raise PorticoError(found.damage, resolution="told in the log")
    found.remember_sysctl("a", "0", "1")


def progress(directory: Path) -> Path:
    kept = Progress(directory / "revisions.json")
    kept.note(1, Stage.APPLIED, 1.0)
    kept.save()
    return directory / "revisions.json"


def client_file(name: str) -> Callable[[Path], Path]:
    """The file and its copy are the same damaged one: the copy alone is tested in its place."""

    def make(directory: Path) -> Path:
        files = ClientFiles(directory)
        issuer = certificates(directory / "ca")
        key, request = make_request("client1")
        chain = issuer.client("client1", request, days=90, now=NOW)
        files.adopt(key_pem=key, chain_pem=chain, trust=issuer.trust, settings=CLIENT_SETTINGS)
        files.save("local", LocalSettings(dns="none"))
        files.save("wish", Wish(connect=False))
        files.save("addresses", KnownAddresses(host="da.example.net", addresses=("203.0.113.11",)))
        if name == "enrolment.json":
            (directory / name).write_text("{}")
            return directory / name
        if name != "identity.pem":
            (directory / f"{name}.last").unlink()
            return directory / name
        (directory / name).unlink()  # the computer counts as enrolled while the copy is there
        return directory / f"{name}.last"

    return make


def read_client(read: Callable[[ClientFiles], object]) -> Callable[[Path], object]:
    return lambda directory: read(ClientFiles(directory))


def read_resolv_conf(directory: Path) -> None:
    file = ResolvConfFile(directory / "resolv.conf", directory / "record")
    file.upstream()
    file.signature()
    file.is_ours()


def taken_resolv_conf(directory: Path) -> Path:
    (directory / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    ResolvConfFile(directory / "resolv.conf", directory / "record").take(address="127.0.0.1", search=["a.test"])
    return directory / "record"


def read_record(directory: Path) -> None:
    file = ResolvConfFile(directory / "resolv.conf", directory / "record")
    assert file.upstream().nameservers == ("192.0.2.1",), "the comments of the file itself serve"


def lab_file(directory: Path) -> Path:
    lab_state.LabState("try", inits={"da1": 1}, starts={"da1": 1}).save()
    return directory / "try" / "lab.json"


FILES = [
    # SQLite reads as many pages as its header says; what follows them harms nobody.
    File("settings database", settings_store, read_store, never_damaged=("too large",)),
    File("applied settings", applied, read_applied),
    # In braces, that half of it is none: half of the lines may well be a document.
    File("settings for install", written("s.yaml", flow(DOCUMENT)), lambda d: load_file(d / "s.yaml")),
    File(
        "settings for apply",
        written("s.yaml", dump(DOCUMENT).encode()),
        lambda d: settings_cli.read_document(d / "s.yaml"),
        never_damaged=("truncated",),  # still text; the server judges it
    ),
    File(
        "certificate database", certificate_file(CERTIFICATES_NAME), CertificateStore.open, never_damaged=("too large",)
    ),
    File("CA", certificate_file(AUTHORITY_NAME), CertificateAuthority.load),
    File("CA certificate", certificate_file(PUBLIC_NAME), CertificateAuthority.public),
    File("server identity", certificate_file(SERVER_NAME), lambda d: load_identity(d / SERVER_NAME)),
    File("ticket keys", certificate_file(TICKETS_NAME), load_tickets, may_be_missing=True),
    File("revocation list", certificate_file(CRL_NAME), read_crl_of),
    File("last revocations", certificate_file(REVOKED_NAME), load_revoked, may_be_missing=True),
    File("kept imports", certificate_file(imported.KEPT_NAME), imported.load_kept, may_be_missing=True),
    File("imported certificate", import_file("chain.pem"), read_imported),
    File("imported key", import_file("key.pem"), read_imported),
    File("imported CA", import_file(PUBLIC_NAME), read_imported),
    File("ledger", ledger, read_ledger, may_be_missing=True),
    File("cluster name", written(NAME_FILE, b'{"server": "da1"}'), read_own_name, may_be_missing=True),
    File("progress", progress, lambda d: Progress(d / "revisions.json"), gets_along=True, may_be_missing=True),
    File(
        "last seen",
        written("seen.json", b'{"client1": 1.5, "client2": 2}'),
        lambda d: roster.read_seen(d / "seen.json"),
        gets_along=True,
        may_be_missing=True,
    ),
    File("installed", written(MADE_NAME, b'{"user": true}'), install._made, may_be_missing=True),
    File("client identity", client_file("identity.pem"), read_client(ClientFiles.identity)),
    File("client trust", client_file("trust.pem"), read_client(ClientFiles.trust)),
    File("client settings", client_file("settings.json"), read_client(ClientFiles.settings)),
    File("client choices", client_file("local.json"), read_client(ClientFiles.local), may_be_missing=True),
    File("client wish", client_file("wish.json"), read_client(ClientFiles.wish), gets_along=True, may_be_missing=True),
    File(
        "client enrolment",
        client_file("enrolment.json"),
        read_client(ClientFiles.trust),
        gets_along=True,
        may_be_missing=True,
        never_damaged=("link to itself",),
    ),
    File(
        "client addresses",
        client_file("addresses.json"),
        read_client(lambda files: files.known_addresses("da.example.net")),
        gets_along=True,
        may_be_missing=True,
    ),
    File("resolv.conf", taken_resolv_conf, read_record, gets_along=True, may_be_missing=True),
    File(
        "proxy",
        written("proxy", b"http://user:secret@192.0.2.1:3128"),
        lambda d: client_cli._changed(LocalSettings(), proxy_file=d / "proxy"),
        never_damaged=("truncated",),
    ),
    File(
        "signing request",
        written("csr", make_request("a")[1].encode()),
        lambda d: read_file(d / "csr", limit=16_384),
        never_damaged=("truncated", "garbage"),  # the server judges what is in it
    ),
    File("lab", lab_file, lambda _: lab_state.load("try")),
]
"""Names are shown when a test fails."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.replace(" ", "-"))
def test_a_file_that_is_wrong_is_named(
    file: File, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_state, "RUNTIME", tmp_path)
    monkeypatch.setattr(lab_state, "DISKS", tmp_path / "disks")
    path = file.make(tmp_path)
    file.read(tmp_path)
    caplog.clear()
    damage(path, kind)
    for journal in path.parent.glob(f"{path.name}-*"):
        journal.unlink()
    if kind in file.never_damaged:
        return
    if kind == "missing" and file.may_be_missing:
        file.read(tmp_path)
        return
    if file.gets_along:
        file.read(tmp_path)
        assert str(path) in caplog.text
        return
    with pytest.raises(PorticoError) as refused:
        file.read(tmp_path)
    told = refused.value
    assert str(path) in str(told) or path.name in str(told) or kind == "missing", str(told)
    assert told.resolution, str(told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pid_file_that_is_wrong_is_nobodys(kind: str, tmp_path: Path) -> None:
    path = tmp_path / control.PID_NAME
    path.write_text("1\n")
    damage(path, kind)
    assert control.running_pid(tmp_path) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_resolv_conf_that_is_wrong_is_read_as_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    damage(tmp_path / "resolv.conf", kind)
    read_resolv_conf(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "1",
        '{"a": []}',
        "Infinity",
        '{"a": 1e999}',
        '{"a": ' + "9" * 400 + "}",
        "[" * 100_000,
        '"\\ud800"',
    ],
)
@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.name in ("progress", "last seen", "ledger", "installed", "lab")],
    ids=lambda file: file.name,
)
def test_json_of_another_shape_is_no_traceback(
    file: File, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_state, "RUNTIME", tmp_path)
    monkeypatch.setattr(lab_state, "DISKS", tmp_path / "disks")
    path = file.make(tmp_path)
    for content in (text, f'[{{"revision": 1, "stage": "applied", "times": {text}, "error": 1}}]'):
        path.write_text(content)
        try:
            file.read(tmp_path)
        except PorticoError as error:
            assert error.resolution


def test_a_lab_state_with_the_right_keys_and_wrong_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_state, "RUNTIME", tmp_path)
    monkeypatch.setattr(lab_state, "DISKS", tmp_path / "disks")
    path = lab_file(tmp_path)
    good = json.loads(path.read_text())
    changes: tuple[dict[str, object], ...] = (
        {"inits": []},
        {"inits": {"da1": "1"}},
        {"cut": "x"},
        {"name": 5},
        {"started": None},
    )
    for change in changes:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(PorticoError, match="lab down"):
            lab_state.load("try")
