"""Which files a document names is found by how its settings are marked, so no list can miss one."""

from __future__ import annotations

import re
from typing import Any

from portico.settings.document import load_data
from portico.settings.named_files import named_files
from portico.settings.reference import reference_markdown


def test_every_setting_that_the_reference_calls_a_file_is_found(data: dict[str, Any]) -> None:
    webhook = {"url": "https://alerts.example.net/", "secret_file": "/1", "ca_file": "/2"}
    oidc = {"issuer": "https://login.example.net", "client_id": "portico", "ca_file": "/3"}
    settings = load_data(
        {
            **data,
            "certificates": {
                "mode": "imported", "server_certificate": "/4", "server_key": "/5", "client_ca": ["/6"], "crl": ["/7"],
            },
            "network_location_server": {"certificate": "/8", "key": "/9"},
            "corporate_dns": {"key_file": "/10", "keytab": "/11"},
            "access": {"user_ca": ["/12"], "user_crl": ["/13"]},
            "store": {"ca": "/14", "certificate": "/15", "key": "/16"},
            "alerts": {"webhooks": [webhook]},
            "management": {"oidc": oidc},
        }
    )  # fmt: skip
    found = named_files(settings)
    assert set(found) == {f"/{number}" for number in range(1, 17)}
    assert found["/1"].setting == "alerts.webhooks[0].secret_file"
    assert {path for path, named in found.items() if named.of.secret} == {"/1", "/5", "/9", "/10", "/11", "/16"}
    assert {path for path, named in found.items() if named.of.kind == "fetched"} == {"/7", "/13"}
    rows = [line for line in reference_markdown().splitlines() if "| file" in line or "list of: file" in line]
    keys = {re.sub(r"\[[0-9]+\]", "", named.setting).rpartition(".")[2] for named in found.values()}
    assert {row.split("`")[1] for row in rows} == keys


def test_a_file_that_two_settings_name_is_as_secret_as_the_stricter_one(data: dict[str, Any]) -> None:
    certificates = {"mode": "imported", "server_certificate": "/one", "server_key": "/one", "client_ca": ["/one"]}
    [named] = named_files(load_data({**data, "certificates": certificates})).values()
    assert named.of.secret
