"""A CA, a store and a clock for the tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.certificates.issue import Issuer
from portico.certificates.store import CertificateStore

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def shared_authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path_factory.mktemp("ca"), name="corp.example.net", now=NOW)


@pytest.fixture
def store(tmp_path: Path) -> CertificateStore:
    return CertificateStore.open(tmp_path / "certificates")


@pytest.fixture
def issuer(shared_authority: CertificateAuthority, store: CertificateStore) -> Issuer:
    return Issuer(shared_authority, store)
