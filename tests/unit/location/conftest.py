"""A certificate for the network location server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import Issuer
from portico.certificates.store import CertificateStore

NAME = "directaccess-nls.corp.example.net"


@dataclass(frozen=True)
class Made:
    chain: str
    key: str
    trust: str


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory: Path = tmp_path_factory.mktemp("nls")
    now = datetime.now(UTC)
    issuer = Issuer(
        CertificateAuthority.create(directory, name="test", now=now), CertificateStore.open(directory, new=True)
    )
    identity = issuer.server(NAME, days=30, now=now)
    return Made(identity.chain_pem, identity.key_pem, issuer.trust)
