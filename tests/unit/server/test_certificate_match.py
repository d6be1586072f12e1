"""A server whose certificates are not those of the newest settings is stopped while another one has the right ones."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portico.errors import Conflict
from portico.server.certificate_match import CODE, CertificateMatch, mismatch
from portico.settings.document import load_data
from portico.settings.model import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(*names: str) -> str:
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "da")])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def document(data: dict[str, Any], tmp_path: Path) -> Settings:
    servers = [
        {"name": name, "priority": number, "internal_dedicated_addresses": [f"10.0.0.1{number}/24"]}
        for number, name in enumerate(("da1", "da2"), 1)
    ]
    certificates = {"mode": "imported", "server_certificate": "/x", "server_key": "/y", "client_ca": ["/z"]}
    location = {"certificate": str(tmp_path / "nls.pem"), "key": "/k"}
    section = {"internal_virtual_addresses": ["10.0.0.2/24"], "servers": servers}
    return load_data(
        {**data, "certificates": certificates, "network_location_server": location, "load_balancing": section}
    )


class Agent(SimpleNamespace):
    """What of an agent the judgement is made of."""

    def __init__(self, document: Settings, shown: str, others: list[Any]) -> None:
        super().__init__(document=document, others=others, applied=[])
        self.credentials = SimpleNamespace(shown=shown)
        links = [SimpleNamespace(name=f"da{n}", said={"mismatch": said}) for n, said in enumerate(others, 2)]
        reachable = SimpleNamespace(reachable=lambda: links)
        self.peers = SimpleNamespace(links=reachable, own_name="da1", secrets=lambda: None)
        self.platform, self.revision = SimpleNamespace(settings=document), SimpleNamespace(number=7)
        self.transactions = SimpleNamespace(lock=asyncio.Lock())
        self.balancer = SimpleNamespace(apply=self.apply)
        self.links = links

    def store(self) -> Any:
        return SimpleNamespace(latest=lambda: SimpleNamespace(settings=self.document))

    async def apply(self, local: Settings, _revision: int, _secrets: Any) -> None:
        assert local.load_balancing is not None
        self.applied.append([server.state for server in local.load_balancing.servers])


def test_names_are_compared_as_clients_do(document: Settings) -> None:
    assert mismatch(document, certificate("da.example.net"), "") == ""
    assert mismatch(document, certificate("*.example.net"), "") == "", "a wildcard and a name may mix"
    assert "old.example.net" in mismatch(document, certificate("old.example.net"), "")
    nls = "directaccess-nls.corp.example.net"
    right = certificate("da.example.net")
    assert mismatch(document, right, certificate(nls)) == ""
    assert nls in mismatch(document, right, certificate("nls.corp.example.net"))
    assert "no name" in mismatch(document, "not PEM", "")
    assert mismatch(document, "", "") == "", "before anything is known nobody is stopped"


def test_a_server_that_missed_a_change_is_stopped_until_its_certificate_is_right(document: Settings) -> None:
    agent = Agent(document, certificate("old.example.net"), [""])
    match = CertificateMatch(agent)  # type: ignore[arg-type]

    async def scenario() -> None:
        local = await match.judged(document)
        assert local.load_balancing is not None
        assert [server.state for server in local.load_balancing.servers] == ["stopped", "started"]
        assert match.problem is not None and match.problem.code == CODE
        assert "old.example.net" in match.problem.why
        assert "old.example.net" in match.reasons()["da1"]
        with pytest.raises(Conflict) as caught:
            match.refuse("start")
        assert caught.value.code == CODE
        match.refuse("stop")
        await match._again()
        assert agent.applied == [], "nothing has changed"
        agent.credentials.shown = certificate("da.example.net")
        await match._again()
        assert agent.applied == [["started", "started"]]
        assert match.problem is None and match.reasons() == {} and match.greeting() == {"mismatch": ""}
        match.refuse("start")

    asyncio.run(scenario())


@pytest.mark.parametrize("others", [[], ["its certificate is for old.example.net"], [None]])
def test_somebody_serves_when_nobody_has_the_right_certificate(others: list[Any], document: Settings) -> None:
    agent = Agent(document, certificate("old.example.net"), others)
    match = CertificateMatch(agent)  # type: ignore[arg-type]

    async def scenario() -> None:
        assert await match.judged(document) == document
        assert match.problem is None and match.why
        assert match.greeting()["mismatch"]

    asyncio.run(scenario())


def test_the_imported_certificate_of_the_network_location_server_counts_too(document: Settings, tmp_path: Path) -> None:
    (tmp_path / "nls.pem").write_text(certificate("nls.corp.example.net"))
    agent = Agent(document, certificate("da.example.net"), [""])
    match = CertificateMatch(agent)  # type: ignore[arg-type]

    async def scenario() -> None:
        await match.judged(document)
        assert match.problem is not None and "network location server" in match.problem.why
        (tmp_path / "nls.pem").unlink()
        await match.judged(document)
        assert match.problem is None, "that there is none is said by what serves it"

    asyncio.run(scenario())
