from __future__ import annotations

from typing import Any

import pytest

from portico.errors import PorticoError
from portico.settings.document import load_data
from portico.settings.edit import assign, keys

BINDING = "{protocol: tcp, client: 'fd7c:1a2b:3c4d:1000::5', client_port: 22, port: 50022}"


def whole(data: dict[str, Any]) -> dict[str, Any]:
    return load_data(data).as_data()


def test_values_are_set_and_lists_grow_and_shrink(data: dict[str, Any]) -> None:
    before = whole(data)
    after = assign(
        before,
        [
            "nat64.log_bindings=true",
            "dns64.upstream_servers+=10.0.0.54",
            "dns64.upstream_servers-=10.0.0.53",
            f"nat64.static_bindings+={BINDING}",
            "nat64.static_bindings[0].port=50023",
            "nrpt.exemptions=[nls.corp.example.net]",
            "server.workers=null",
            "drift=report",
        ],
    )
    settings = load_data(after)
    assert settings.nat64.log_bindings is True
    assert [str(server) for server in settings.dns64.upstream_servers] == ["10.0.0.54"]
    assert [binding.port for binding in settings.nat64.static_bindings] == [50023]
    assert settings.nrpt.exemptions == ["nls.corp.example.net"]
    assert (settings.server.workers, settings.drift) == (None, "report")
    assert before == whole(data), "what was given is left alone"
    assert assign(after, ["nat64.static_bindings-={port: 50023}"])["nat64"]["static_bindings"] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nat64.log_bindings", "KEY=VALUE"),
        ("nat64.log_binding=true", "Did you mean 'log_bindings'"),
        ("banana=1", "not among"),
        ("nat64.state.x=1", "single value"),
        ("nat64.static_bindings[3].port=1", "0 entries"),
        ("nat64.state[0]=1", "no list"),
        ("drift+=1", "no list"),
        ("dns64.upstream_servers-=10.9.9.9", "not among: 10.0.0.53"),
        ("dns64.upstream_servers+=[", "YAML"),
        ("nat64..x=1", "not the path"),
        ("load_balancing.mode=multicast", "portico lb enable"),
        ("load_balancing.servers[0].weight=10", "portico lb enable"),
    ],
)
def test_what_cannot_be_is_refused(data: dict[str, Any], text: str, why: str) -> None:
    with pytest.raises(PorticoError) as caught:
        assign(whole(data), [text])
    assert why in str(caught.value)


def test_every_setting_can_be_named(data: dict[str, Any]) -> None:
    found = list(keys())
    assert {"nat64.log_bindings", "dns64.conditional_forwarding", "drift", "access.manage_out"} <= set(found)
    values = whole(data)
    for key in found:
        section, _, name = key.partition(".")
        inside = values[section]
        if inside is None:  # a section that is not there
            continue
        value = inside[name] if name else inside
        if not isinstance(value, dict | list | str):
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert assign(values, [f"{key}={text}"]) == values, key
