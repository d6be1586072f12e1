"""Stores of two servers follow each other's logs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from portico.certificates import replication
from portico.certificates.issue import Issuer
from portico.certificates.store import CertificateStore
from portico.certificates.tokens import burn_token, create_token


@pytest.fixture
def other(tmp_path: Path) -> CertificateStore:
    return CertificateStore.open(tmp_path / "other")


def follow(reader: CertificateStore, writer: CertificateStore) -> bool:
    """Takes over all that is new; whether anything was."""
    log, _ = replication.newest(writer)
    return replication.take_over(reader, replication.changes(writer, log, replication.position(reader, log)))


def test_a_row_that_changes_again_after_it_was_taken_over_is_taken_over_again(
    issuer: Issuer, other: CertificateStore, now: datetime
) -> None:
    token = create_token(issuer.store, name="client1", url="https://x", trust=issuer.trust, now=now)
    assert follow(other, issuer.store)
    burn_token(issuer.store, token.id, now)
    assert follow(other, issuer.store)
    follow(issuer.store, other)
    assert not follow(other, issuer.store), "it does not go round"
    _, number = replication.newest(other)
    assert number == 2, "each row is in the log once, under the number of its last change"
    log, _ = replication.newest(other)
    assert len(replication.changes(other, log, 0).rows) == 1
