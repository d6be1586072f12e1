"""An error over HTTP comes out as what it was."""

from __future__ import annotations

import pytest

from portico.errors import InvalidInput, NotPermitted, PorticoError, Unavailable
from portico.http_status import STATUSES, kind_of, status_of
from portico.settings.problems import SettingsRefused


@pytest.mark.parametrize("kind", [kind for kind, _ in STATUSES if kind is not SettingsRefused])
def test_each_kind_comes_back(kind: type[PorticoError]) -> None:
    assert kind_of(status_of(kind("no"))) is kind


def test_kinds_of_kinds_and_strangers() -> None:
    class Silent(Unavailable):
        pass

    assert status_of(Silent("no")) == 503
    assert (status_of(PorticoError("no")), status_of(PorticoError("no"), 503)) == (500, 503)
    assert (kind_of(401), kind_of(422)) == (NotPermitted, InvalidInput)
    assert (kind_of(418), kind_of(500, Unavailable)) == (PorticoError, Unavailable)
