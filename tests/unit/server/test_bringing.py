"""Files that the settings name come to a server that lacks them: whole, private, never over or through another."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from portico.errors import Conflict, InvalidInput, NotPermitted, Unavailable
from portico.server import bringing
from portico.settings.document import load_data
from portico.settings.model import Settings


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    directory = tmp_path / "etc"
    return {name: directory / name for name in ("tsig.key", "ca.pem", "server.pem")}


@pytest.fixture
def settings(data: dict[str, Any], places: dict[str, Path]) -> Settings:
    named = {name: str(path) for name, path in places.items()}
    return load_data(
        {
            **data,
            "corporate_dns": {"update": "tsig", "key_file": named["tsig.key"]},
            "certificates": {"client_ca": [named["ca.pem"]], "server_certificate": named["server.pem"]},
        }
    )


def offered(path: Path, data: bytes) -> dict[str, str]:
    return {"path": str(path), "sha256": bringing.digest(data), "data": base64.b64encode(data).decode()}


def test_what_is_missing_is_put_there_and_a_secret_is_roots_alone(
    settings: Settings, places: dict[str, Path], tmp_path: Path
) -> None:
    for name, path in places.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    sent = bringing.offer(bringing.carried(settings, tmp_path / "state").values())
    assert len(sent) == 3
    for path in places.values():
        path.unlink()
    places["tsig.key"].parent.rmdir()
    written = bringing.take(settings, tmp_path / "state", sent)
    assert {path: path.read_text() for path in places.values()} == {path: name for name, path in places.items()}
    assert [places[name].stat().st_mode & 0o777 for name in places] == [0o600, 0o640, 0o640]
    assert sorted(path.name for path in tmp_path.joinpath("etc").iterdir()) == sorted(places)
    assert bringing.take(settings, tmp_path / "state", sent) == {}, "it is there already"
    (tmp_path / "cluster").mkdir()
    bringing.note(tmp_path / "cluster", written)
    places["ca.pem"].write_text("the administrator's own by now")
    bringing.remove(bringing.brought(tmp_path / "cluster"))
    assert [path.name for path in places.values() if path.exists()] == ["ca.pem"]


def test_another_file_is_never_replaced(settings: Settings, places: dict[str, Path], tmp_path: Path) -> None:
    places["tsig.key"].parent.mkdir()
    places["ca.pem"].write_text("another CA")
    places["server.pem"].write_text("a certificate of this server's own")
    sent = [offered(places[name], b"theirs") for name in ("tsig.key", "server.pem", "ca.pem")]
    with pytest.raises(Conflict) as caught:
        bringing.take(settings, tmp_path / "state", sent)
    assert caught.value.code == "FILE_DIFFERS"
    assert "theirs" not in str(caught.value)
    assert places["ca.pem"].read_text() == "another CA"
    assert places["server.pem"].read_text() == "a certificate of this server's own"
    assert not places["tsig.key"].exists(), "nothing stays of what came before the refusal"
    places["ca.pem"].unlink()
    assert len(bringing.take(settings, tmp_path / "state", sent)) == 2
    assert places["server.pem"].read_text() == "a certificate of this server's own"
    with pytest.raises(Unavailable):
        bringing.place(places["ca.pem"], b"somebody was quicker", mode=0o600)
    assert places["ca.pem"].read_text() == "theirs"


def test_no_link_is_followed(settings: Settings, places: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    places["tsig.key"].parent.symlink_to(elsewhere)
    with pytest.raises(NotPermitted) as caught:
        bringing.take(settings, tmp_path / "state", [offered(places["tsig.key"], b"key")])
    assert caught.value.code == "FILE_BEHIND_LINK"
    assert not list(elsewhere.iterdir())
    places["tsig.key"].parent.unlink()
    places["tsig.key"].parent.mkdir()
    places["tsig.key"].symlink_to(elsewhere / "target")
    with pytest.raises(Unavailable):
        bringing.take(settings, tmp_path / "state", [offered(places["tsig.key"], b"key")])
    (elsewhere / "target").write_text("former")
    with pytest.raises(NotPermitted):
        bringing.place(places["tsig.key"], b"key", mode=0o600, over=True)
    assert (elsewhere / "target").read_text() == "former"
    assert [path.name for path in places["tsig.key"].parent.iterdir()] == ["tsig.key"]


def test_only_what_the_document_names_and_can_be_sent_travels(
    settings: Settings, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = offered(places["tsig.key"], b"key")
    for bad in (
        "no list",
        [None],
        [offered(Path("/etc/shadow"), b"root::")],
        [{**good, "sha256": "0" * 64}],
        [{**good, "data": "%"}],
        [{**good, "data": None}],
        [good] * (bringing.MAXIMUM_FILES + 1),
    ):
        with pytest.raises(InvalidInput):
            bringing.take(settings, tmp_path / "state", bad)
        assert not places["tsig.key"].exists()
    monkeypatch.setattr(bringing, "MAXIMUM_FILE", 2)
    with pytest.raises(InvalidInput):
        bringing.take(settings, tmp_path / "state", [good])
    places["tsig.key"].parent.mkdir(exist_ok=True)
    places["tsig.key"].write_text("too large")
    assert bringing.offer(bringing.carried(settings, tmp_path / "state").values()) == []


@pytest.mark.parametrize(
    "path", ["tsig.key", "/etc/../etc/tsig.key", "/etc//tsig.key", "/proc/self/environ", "/dev/mem", "STATE/member.pem"]
)
def test_some_paths_are_never_brought(path: str, data: dict[str, Any], tmp_path: Path) -> None:
    named = path.replace("STATE", str(tmp_path))
    settings = load_data({**data, "corporate_dns": {"key_file": named}})
    assert bringing.carried(settings, tmp_path) == {}
