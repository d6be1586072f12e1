"""The support bundle: what is in it, that no secret is, and its bounds."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import CertificateBuilder, Name, NameAttribute, random_serial_number
from cryptography.x509.oid import NameOID
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from portico.client.assistant.report import Report
from portico.client.identity import ClientFiles, ClientSettings, LocalSettings, Wish
from portico.client.surface import sources as sources_module
from portico.client.surface.bundle import gather, pack, place, write
from portico.client.surface.log_tail import Tail
from portico.client.surface.redaction import REMOVED, Redactor, secrets_of
from portico.client.surface.sources import MARGIN, Item, run, sources
from portico.errors import Conflict, NotFound, Unavailable

NOW = datetime(2026, 11, 28, 8, 0, tzinfo=UTC)
PASSWORD = "hunt:er 2/ü%"
INTERFACE_SECRET = bytes(range(200, 216))


def identity() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = Name([NameAttribute(NameOID.COMMON_NAME, "laptop7")])
    now = datetime.now(UTC)
    builder = CertificateBuilder(name, name, key.public_key(), random_serial_number(), now, now + timedelta(days=1))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return pem, builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


class Computer:
    """An enrolled computer's files, and an agent that answers."""

    def __init__(self, directory: Path) -> None:
        self.files = ClientFiles(directory / "client")
        self.etc = directory / "etc"
        self.etc.mkdir()
        (self.etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        self.key, chain = identity()
        settings = ClientSettings(url="https://da.example.net:443/IPHTTPS", domain="corp.example.net")
        self.files.adopt(key_pem=self.key, chain_pem=chain, trust=chain, settings=settings)
        self.files.save("wish", Wish())
        proxy = "http://alice:hunt%3Aer%202%2F%C3%BC%25@proxy.example.org:3128"
        self.files.save("local", LocalSettings(proxy=proxy))
        (self.files.directory / "interface.secret").write_bytes(INTERFACE_SECRET)
        left_behind = {"key_pem": self.key, "chain_pem": chain, "trust": chain, "settings": {}}
        (self.files.directory / "enrolment.json.last").write_text(json.dumps(left_behind))
        self.answers: dict[str, dict[str, Any]] = {}

    @property
    def secrets(self) -> list[bytes]:
        """What a bundle must hold nowhere, in the forms in which somebody might look for it."""
        body = [line for line in self.key.splitlines() if "-----" not in line]
        return [
            *(line.encode() for line in body),
            base64.b64decode("".join(body)),
            PASSWORD.encode(),
            b"hunt%3Aer%202%2F%C3%BC%25",
            base64.b64encode(b"alice:" + PASSWORD.encode()),
            INTERFACE_SECRET,
            INTERFACE_SECRET.hex().encode(),
            base64.b64encode(INTERFACE_SECRET),
            b"PRIVATE KEY",
        ]


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Report) -> Computer:
    made = Computer(tmp_path)
    made.answers = {
        "status": {"status": "Error", "assistant": broken.as_dict()},
        "log": {"lines": ["a line"]},
        "readers": {},
    }

    def ask(_method: str, operation: str, **_: Any) -> dict[str, Any]:
        if operation not in made.answers:
            raise Unavailable("The client's agent does not answer", why="no such file", code="AGENT_NOT_RUNNING")
        return made.answers[operation]

    monkeypatch.setattr(sources_module, "ask", ask)
    return made


def collected(computer: Computer, *more: Item) -> tuple[dict[str, bytes], bytes]:
    """The files of a bundle by their name, and every byte of the archive uncompressed."""
    items = (*sources(computer.files, etc=computer.etc), *more)
    pieces = gather(items, Redactor(secrets_of(computer.files.directory, {})))
    whole = gzip.decompress(pack(pieces, NOW))
    found = {}
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        for entry in archive:
            directory, _, name = entry.name.partition("/")
            assert (directory, entry.mode, entry.uid) == ("portico-client-20261128T080000Z", 0o600, 0)
            content = archive.extractfile(entry)
            assert content is not None
            found[name] = content.read()
    return found, whole


def test_a_bundle_says_what_is_the_matter(computer: Computer) -> None:
    found, _ = collected(computer)
    assert json.loads(found["status.json"])["status"] == "Error"
    assert b"Cause: the record is missing" in found["chain.txt"]
    assert found["agent-log.txt"] == b"a line\n"
    assert json.loads(found["settings.json"])["domain"] == "corp.example.net"
    assert json.loads(found["choices.json"])["proxy"] == "http://proxy.example.org:3128"
    assert b"CN=laptop7" in found["certificate.txt"]
    assert found["resolv.conf"] == b"nameserver 192.0.2.53\n"
    assert b"interface.secret" in found["state-directory.txt"]
    assert json.loads(found["versions.json"])["portico"]
    manifest = json.loads(found["manifest.json"])
    assert {item["name"] for item in manifest["items"]} == set(found) - {"manifest.json"}


def test_no_byte_of_a_bundle_is_a_secret(computer: Computer) -> None:
    """Also when an item brings everything that the state directory holds, in every form."""
    careless = [
        Item(f"careless-{path.name}", "", 1 << 20, path.read_bytes)
        for path in computer.files.directory.iterdir()
        if path.is_file()
    ]
    forms = [*computer.secrets[:-1], json.dumps(computer.key).encode(), json.dumps(PASSWORD).encode()]
    careless += [Item(f"form-{number}", "", 1 << 20, partial(bytes, form)) for number, form in enumerate(forms)]
    computer.answers["log"] = {
        "lines": [f"proxy http://alice:{PASSWORD}@proxy", computer.key, "-----BEGIN PRIVATE KEY-----"]
    }
    found, whole = collected(computer, *careless)
    for secret in (*computer.secrets, json.dumps(PASSWORD)[1:-1].encode()):
        assert secret not in whole, secret
    assert REMOVED in found["careless-identity.pem"]
    removed = {item["name"]: item["secrets_removed"] for item in json.loads(found["manifest.json"])["items"]}
    assert removed["careless-local.json"] > 0
    assert removed["settings.json"] == 0


def test_names_in_the_archive_are_fixed_and_never_a_secret(computer: Computer) -> None:
    names = [item.name for item in sources(computer.files, etc=computer.etc)]
    assert len(set(names)) == len(names)
    computer.files.save("local", LocalSettings(proxy="http://alice:sesame@proxy.example.org:3128"))
    (computer.files.directory / "a-sesame-file").write_text("")
    found, whole = collected(computer)
    assert set(found) == {*names, "manifest.json"}
    assert b"sesame" not in whole, "not as a file's name in a listing either"


def test_a_bundle_of_a_computer_with_nothing_is_still_a_bundle(computer: Computer, tmp_path: Path) -> None:
    computer.answers.clear()
    computer.files = ClientFiles(tmp_path / "none")
    found, _ = collected(computer)
    items = {item["name"]: item for item in json.loads(found["manifest.json"])["items"]}
    assert "does not answer" in items["status.json"]["problem"]
    assert "does not answer" in found["status.json"].decode()
    assert items["settings.json"]["problem"]
    assert not items["versions.json"]["problem"]
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_damaged_files_are_named_and_not_quoted(computer: Computer) -> None:
    for name in ("settings.json", "settings.json.last", "local.json", "local.json.last"):
        (computer.files.directory / name).write_text('{"proxy": "http://alice:opensesame@x", "url": 5')
    found, whole = collected(computer)
    assert b"cannot be used" in found["settings.json"]
    assert b"opensesame" not in whole


def test_an_item_that_is_too_long_loses_its_end_and_says_so(computer: Computer) -> None:
    secret = PASSWORD.encode()
    texts: list[Callable[[], bytes]] = [
        lambda over=over: (b"x" * (5000 - over) + secret + b"y" * MARGIN)[: 5000 + MARGIN]  # type: ignore[misc]
        for over in range(len(secret) + 2)
    ]
    found, whole = collected(computer, *(Item(f"long-{n}", "", 5000, take) for n, take in enumerate(texts)))
    assert secret[:6] not in whole, "not half of one either"
    items = {item["name"]: item for item in json.loads(found["manifest.json"])["items"]}
    for number in range(len(texts)):
        assert items[f"long-{number}"]["truncated"]
        assert len(found[f"long-{number}"]) <= 5000


def test_all_items_together_are_bounded(computer: Computer) -> None:
    assert sum(item.limit for item in sources(computer.files)) <= 16 << 20


def test_a_command_is_bounded_in_size_and_time() -> None:
    assert run(["echo", "hello"], 100) == b"hello\n"
    assert len(run(["yes"], 10_000, patience=60.0)) == 10_000 + MARGIN
    with pytest.raises(Unavailable, match="is not done within"):
        run(["sleep", "60"], 100, patience=0.05)
    with pytest.raises(Unavailable, match="is not installed"):
        run(["no-such-command-anywhere"], 100)


def test_the_file_is_new_and_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = place(None, NOW)
    assert path == tmp_path / "portico-client-20261128T080000Z.tar.gz"
    write(path, b"data")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(Conflict) as caught:
        place(None, NOW)
    assert caught.value.code == "FILE_EXISTS"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        place(tmp_path / "link", NOW)
    with pytest.raises(NotFound):
        place(tmp_path / "none" / "bundle.tar.gz", NOW)
    assert place(tmp_path / "other.tar.gz", NOW) == tmp_path / "other.tar.gz"
    (tmp_path / "d").mkdir()
    assert place(tmp_path / "d", NOW).parent == tmp_path / "d"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"GET http://alice:pw@proxy/ x", b"GET http://[removed]@proxy/ x"),
        (b"enrol eyJ2IjoxLCJ1cmwiOiJodHRwczovL2RhLmV4YW1wbGUubmV0 now", b"enrol [removed] now"),
        (b"Proxy-Authorization: Basic YWxpY2U6cHc=\r\n", b"Proxy-Authorization: Basic [removed]\r\n"),
        (b"Bearer abcdefghijkl", b"Bearer [removed]"),
        (b"password=abc next", b"password=[removed] next"),
        (b'{"token": "abc", "secret": null}', b'{"token": "[removed]", "secret": null}'),
        (b"-----BEGIN EC PRIVATE KEY-----\nMHc\n", b"[removed]"),
        (b"https://da.example.net:443/IPHTTPS and ::1 mail@example.net", None),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", None),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_and_the_rest_is_not(text: bytes, left: bytes | None) -> None:
    redactor = Redactor(())
    assert redactor.clean(text) == (text if left is None else left)
    assert (redactor.removed > 0) == (left is not None)


@settings(deadline=None)
@given(
    password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), min_size=4, max_size=40),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
def test_a_password_is_found_wherever_it_stands(
    password: str, before: str, after: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(password not in REMOVED.decode())
    directory = tmp_path_factory.mktemp("state")
    local = {"proxy": f"http://u:{quote(password, safe='')}@proxy:1"}
    (directory / "local.json").write_text(json.dumps(local))
    cleaned = Redactor(secrets_of(directory, {})).clean(f"{before}{password}{after}".encode())
    assert password.encode() not in cleaned


def test_the_proxy_of_the_environment_is_a_secret_too(tmp_path: Path) -> None:
    found = secrets_of(tmp_path, {"https_proxy": "http://alice:opensesame@proxy:1"})
    assert b"opensesame" in found
    assert Redactor(found).clean(b"with opensesame") == b"with [removed]"


def test_the_log_tail_keeps_the_newest_and_cuts_between_words() -> None:
    tail = Tail(maximum=3)
    for number in range(5):
        tail.handle(logging.LogRecord("x", logging.INFO, "", 0, "line %d", (number,), None))
    kept = tail.as_dict()
    assert [line[-6:] for line in kept["lines"]] == ["line 2", "line 3", "line 4"]
    assert kept["forgotten"] == 2
    tail.handle(logging.LogRecord("x", logging.INFO, "", 0, "word " + "s" * 2000, (), None))
    assert "sss" not in tail.as_dict()["lines"][-1]
    tail.handle(logging.LogRecord("x", logging.INFO, "", 0, "a\nb", (), None))
    assert tail.as_dict()["lines"][-1] == "b"
