"""A complete small document that the tests vary."""

from __future__ import annotations

import copy
from typing import Any

import pytest

MINIMAL: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "dns64": {"upstream_servers": ["10.0.0.53"]},
}


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(MINIMAL)
