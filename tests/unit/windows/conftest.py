from __future__ import annotations

from typing import Any

import pytest

from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.model import Settings
from portico.windows.policy import client_policy
from portico.windows.registry_pol import RegistryValue


def document(**sections: Any) -> Settings:
    """The worked example of a deployment: corp.example.net behind da.example.net."""
    data: dict[str, Any] = {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fdc4:29bd:abde::/48",
        },
        "server": {"name": "edge1", "internet_interface": "eth0", "internal_interface": "eth1"},
    }
    for name, content in sections.items():
        data[name] = {**data.get(name, {}), **content}
    return load_data(data)


@pytest.fixture
def settings() -> Settings:
    return document()


@pytest.fixture
def values(settings: Settings) -> list[RegistryValue]:
    return client_policy(settings, effective(settings))
