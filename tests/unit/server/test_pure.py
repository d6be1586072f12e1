"""Plans and renderings: pure functions of the server, no privileges."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.listing import ClientRow
from portico.server.clients import ClientState, clients
from portico.server.desired import desired_kernel
from portico.server.install import unit_text
from portico.server.progress import Progress, Stage
from portico.server.reconcile import addresses, nftables, routes, rules, sysctls
from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import LOCAL_TABLE, TRANSLATOR, TUNNEL, DeviceAddress, Filter, Route
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.model import Settings

PREFIX = "fd7c:1a2b:3c4d"
REPOSITORY = Path(__file__).resolve().parents[3]
WHOLE_ENTRY: dict[str, Any] = {"index": 3, "former": [], "removed": [], "added": [], "routes": [], "exchanged": []}


def settings(**sections: dict[str, Any]) -> Settings:
    data: dict[str, Any] = {
        "deployment": {"domain": "corp.example.net", "connect_to": "da.example.net"},
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    }
    data["schema_version"] = 1
    data["deployment"]["organisation_prefix"] = f"{PREFIX}::/48"
    data["server"]["internal_ipv4"] = "10.0.0.2"
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    return load_data(data)


def kernel_filter(**sections: dict[str, Any]) -> Filter:
    document = settings(**sections)
    return desired_kernel(document, effective(document), closed=frozenset()).filter


def chain(wanted: Filter, name: str) -> list[str]:
    return [comment for where, _, comment in nftables.rules(wanted) if where == name]


def test_stateless_unless_somebody_may_only_answer() -> None:
    assert '"ct"' not in json.dumps(nftables.render(kernel_filter()))
    for restricted in ({"intranet": ["10.0.0.0/24"]}, {"manage_out": False}):
        assert '"ct"' in json.dumps(nftables.render(kernel_filter(access=restricted)))


def test_nothing_of_ours_crosses_the_internet_interface() -> None:
    text = json.dumps(nftables.render(kernel_filter()))
    for name in ("edge_in", "edge_out"):
        assert f'"name": "{name}"' in text
        assert len(chain(kernel_filter(), name)) == 2


def test_single_interface_has_no_edge() -> None:
    wanted = kernel_filter(server={"internal_interface": "eth0"})
    assert wanted.single_interface
    assert chain(wanted, "edge_in") == []
    assert "never out to the Internet" not in chain(wanted, "from_clients")


def test_without_nat64_nothing_of_it_is_there() -> None:
    document = settings(nat64={"state": "disabled"})
    wanted = desired_kernel(document, effective(document), closed=frozenset())
    assert [device.name for device in wanted.devices] == [TUNNEL]
    assert not wanted.steer
    assert wanted.reserved_ports == ()
    assert "steer" not in json.dumps(nftables.render(wanted.filter))
    assert not any(TRANSLATOR in name for name in wanted.sysctls)


def test_manage_out_from_named_prefixes_only() -> None:
    wanted = kernel_filter(access={"manage_out": {"from": [f"{PREFIX}:1::/64", f"{PREFIX}:1::/80", "10.0.0.0/8"]}})
    assert wanted.sources == (IPv6Network(f"{PREFIX}:1::/64"),), "overlaps and IPv4 have no place in the set"


def test_destinations_are_split_by_family() -> None:
    wanted = kernel_filter(access={"intranet": ["10.0.0.0/24", f"{PREFIX}:1::/64"]})
    assert wanted.destinations == (IPv4Network("10.0.0.0/24"), IPv6Network(f"{PREFIX}:1::/64"))
    assert "the intranet the settings allow" in chain(wanted, "from_clients")
    assert "the intranet the settings allow" in chain(wanted, "from_translator")


def test_closed_families_stay_closed() -> None:
    wanted = replace(kernel_filter(), closed=frozenset({4, 6}))
    assert len(chain(wanted, "forward")) == len(chain(kernel_filter(), "forward")) + 2


def test_listing_is_compared_without_handles_and_counters() -> None:
    def listing(handle: int, packets: int) -> dict[str, Any]:
        expr = [{"counter": {"packets": packets, "bytes": 0}}, {"drop": None}]
        return {"nftables": [{"metainfo": {"version": handle}}, {"rule": {"handle": handle, "expr": expr}}]}

    assert nftables.normalise(listing(1, 0)) == nftables.normalise(listing(2, 99))
    assert nftables.normalise({}) == []


def test_plan_of_the_table() -> None:
    one, two = json.dumps({"rule": {"chain": "a", "comment": "x"}}), json.dumps({"chain": {"name": "a"}})
    assert nftables.plan([one], [one]) == []
    assert [c.action for c in nftables.plan([one], None)] == ["add"]
    assert [c.action for c in nftables.plan(None, [one])] == ["set"]
    assert [str(c) for c in nftables.plan([one], [two])] == [
        "remove nftables in inet portico: chain a",
        "add nftables in inet portico: rule of chain a (x)",
    ]
    assert [c.action for c in nftables.plan([one, two], [two, one])] == ["set"], "order counts"


def test_local_rule_is_added_before_it_is_removed_both_ways() -> None:
    fresh = {rules.LOCAL_FIRST, rules.Rule(32766, 254)}
    assert [(c.action, c.key) for c in rules.plan(True, fresh)] == [
        ("add", rules.LOCAL_MOVED),
        ("add", rules.STEER),
        ("remove", rules.LOCAL_FIRST),
    ]
    moved = {rules.LOCAL_MOVED, rules.STEER}
    assert rules.plan(True, moved) == []
    assert [(c.action, c.key) for c in rules.plan(False, moved, True)] == [
        ("add", rules.LOCAL_FIRST),
        ("remove", rules.STEER),
        ("remove", rules.LOCAL_MOVED),
    ]


def test_local_rule_that_somebody_else_moved_is_left_alone() -> None:
    theirs = {rules.Rule(1000, LOCAL_TABLE)}
    assert [c.key for c in rules.plan(True, theirs)] == [rules.STEER]
    assert [c.key for c in rules.plan(False, theirs | {rules.STEER}, False)] == [rules.STEER]


@given(st.sets(st.sampled_from([rules.LOCAL_FIRST, rules.LOCAL_MOVED, rules.STEER, rules.Rule(1000, LOCAL_TABLE)])))
def test_machine_is_never_without_its_local_rule(state: set[rules.Rule]) -> None:
    """From any state, through every step of putting it right and of undoing it."""
    for steer, changes in ((True, rules.plan(True, state)), (False, rules.plan(False, state, True))):
        now = set(state)
        had = any(rule.table == LOCAL_TABLE for rule in now)
        for change in changes:
            assert isinstance(change.key, rules.Rule)
            (now.add if change.action == "add" else now.discard)(change.key)
            has = any(rule.table == LOCAL_TABLE for rule in now)
            assert has or not had
            had = has
        assert has_rule(now, steer)


def has_rule(state: set[rules.Rule], steer: bool) -> bool:
    return (rules.STEER in state) == steer and any(rule.table == LOCAL_TABLE for rule in state)


def test_foreign_addresses_and_routes_on_our_devices_go() -> None:
    ours = DeviceAddress(TUNNEL, IPv6Interface("fd00::1/64"))
    theirs = DeviceAddress(TUNNEL, IPv6Interface("fd00::bad/64"))
    assert [(c.action, c.key) for c in addresses.plan([ours], [theirs])] == [("remove", theirs), ("add", ours)]
    route, other = Route(6, 254, "fd00::/64", TUNNEL), Route(6, 254, "fd01::/64", TUNNEL)
    state = [routes.Observed(route, True), routes.Observed(other, False)]
    assert [(c.action, c.key) for c in routes.plan([route], state)] == [("remove", state[1])]
    assert routes.plan([], state[:1]) == [], "the kernel's own routes are the kernel's"


def test_pool_leaves_the_machine_ephemeral_ports(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "kernel.json")
    state = {sysctls.RESERVED_PORTS: "8080", sysctls.PORT_RANGE: "32768 60999"}
    values = sysctls.complete({}, ((32768, 60999),), state, ledger)
    assert values == {sysctls.RESERVED_PORTS: "8080,32768-60999", sysctls.PORT_RANGE: "10240 32767"}
    small = sysctls.complete({}, ((40000, 41000),), state, ledger)
    assert small == {sysctls.RESERVED_PORTS: "8080,40000-41000"}, "enough ports are left"


ports = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


@given(ports, ports)
def test_port_ranges_are_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    def members(ranges: sysctls.Ports) -> set[int]:
        return {port for low, high in ranges for port in range(low, high + 1)}

    a, b = tuple(one), tuple(other)
    assert members(sysctls.merge(a, b)) == members(a) | members(b)
    assert members(sysctls.subtract(a, b)) == members(a) - members(b)
    assert sysctls.parse_ports(sysctls.format_ports(sysctls.merge(a, ()))) == sysctls.merge(a, ())


def test_sysctls_are_put_back_unless_somebody_changed_them(tmp_path: Path) -> None:
    root = tmp_path / "sys"
    root.mkdir()
    (root / "one").write_text("0\n")
    (root / "two").write_text("5\n")
    ledger = Ledger(tmp_path / "kernel.json")
    sysctls.apply(sysctls.plan({"one": "1", "two": "6"}, sysctls.observe(["one", "two"], root)), ledger, root)
    (root / "two").write_text("7\n")
    again = Ledger(tmp_path / "kernel.json")
    assert sysctls.undo(again, root) == []
    assert sysctls.observe(["one", "two"], root) == {"one": "0", "two": "7"}
    assert again.sysctls == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"boot_id": "b", "sysctls": {"a": 1}}', b"null"])
def test_damaged_ledger_is_named_and_survived(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kernel.json"
    path.write_bytes(content)
    ledger = Ledger(path, boot_id="b")
    assert ledger.sysctls == {}
    assert ledger.damage is not None
    assert str(path) in ledger.damage


@pytest.mark.parametrize(
    "entry",
    [{}, {"index": 3}, [], {**WHOLE_ENTRY, "former": [["203.0.113.11", "!", True]]}, {**WHOLE_ENTRY, "removed": ["x"]}],
)
def test_a_ledger_with_addresses_that_are_none_is_damaged_as_a_whole(tmp_path: Path, entry: object) -> None:
    data = {"boot_id": "b", "sysctls": {"a": ["0", "1"]}, "local_rule_moved": False, "host_addresses": {"eth0": entry}}
    (tmp_path / "kernel.json").write_text(json.dumps(data))
    ledger = Ledger(tmp_path / "kernel.json", boot_id="b")
    assert ledger.damage is not None
    assert (ledger.sysctls, ledger.host_addresses) == ({}, {})
    data["host_addresses"] = {"eth0": WHOLE_ENTRY}
    (tmp_path / "kernel.json").write_text(json.dumps(data))
    assert Ledger(tmp_path / "kernel.json", boot_id="b").damage is None


def test_ledger_of_another_boot_means_nothing(tmp_path: Path) -> None:
    Ledger(tmp_path / "k", boot_id="one").remember_sysctl("a", "0", "1")
    assert Ledger(tmp_path / "k", boot_id="one").sysctls == {"a": ("0", "1")}
    assert Ledger(tmp_path / "k", boot_id="two").sysctls == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"[{}]", b"garbage", b'[{"revision": "x"}]'])
def test_damaged_history_costs_only_the_history(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "revisions.json"
    path.write_bytes(content)
    progress = Progress(path)
    assert progress.entries == []
    progress.note(1, Stage.APPLIED, 5.0)
    progress.save()
    assert Progress(path).as_list()[0]["times"] == {"applied": 5.0}


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(name: str, serial: str, *, revoked: bool = False, days: int = 90) -> ClientRow:
    end = NOW + timedelta(days=days)
    return ClientRow(name, serial, end.isoformat(), NOW.isoformat() if revoked else None)


def test_clients_merge_certificates_and_tunnels() -> None:
    identity = {"subject": "up", "serial": "1", "issuer_sha256": "aa"}
    found = clients(
        [
            record("up", "1"),
            record("off", "2"),
            record("new", "3"),
            record("gone", "4", revoked=True),
            record("old", "5", days=-1),
            record("again", "6"),
            record("again", "7", revoked=True),
        ],
        [
            {"session": 1, "peer": "1.2.3.4:5", "identity": identity},
            {"session": 2, "peer": "[::1]:9", "identity": None},
        ],
        {"off": 1.0},
        NOW,
    )
    assert {client.name: client.state for client in found} == {
        "up": ClientState.CONNECTED,
        "[::1]:9": ClientState.CONNECTED,
        "off": ClientState.OFFLINE,
        "new": ClientState.NEVER_SEEN,
        "gone": ClientState.REVOKED,
        "old": ClientState.EXPIRED,
        "again": ClientState.NEVER_SEEN,
    }
    assert [client.state for client in found[:2]] == [ClientState.CONNECTED] * 2


@pytest.mark.parametrize("name", ["server", "gateway", "balancer", "location"])
def test_units_run_the_program_that_installs_them(name: str) -> None:
    name = f"portico-{name}.service"
    shipped = REPOSITORY / "portico" / "systemd" / name
    assert unit_text(name, "/usr/bin/portico", "/usr/bin/python3") == shipped.read_text()
    text = unit_text(name, "/srv/p/bin/portico", "/srv/p/bin/python")
    assert "/srv/p/bin/" in text
    assert "ExecStart=/usr/bin/p" not in text


def test_pool_address_is_the_source_of_nat64() -> None:
    assert [pool.address for pool in kernel_filter().pools] == [IPv4Address("10.0.0.2")]


def binding(port: int, **changes: Any) -> dict[str, Any]:
    client = f"{PREFIX}:1000::5"
    return {"protocol": "tcp", "client": client, "client_port": port, "address": "10.0.0.2", "port": port, **changes}


def steered(wanted: Filter) -> str:
    return json.dumps([expressions for where, expressions, _ in nftables.rules(wanted) if where == "steer_in"])


def test_static_ports_are_steered_to_the_translator_and_taken_from_the_machine() -> None:
    pool = ["10.0.0.2,32768-60999", "10.0.0.3,40000-40999"]
    statics = [binding(22), binding(80), binding(53, protocol="udp"), binding(40000), binding(443, address="10.0.0.3")]
    document = settings(nat64={"ipv4_address_port_pool": pool, "static_bindings": statics})
    wanted = desired_kernel(document, effective(document), closed=frozenset())
    text = steered(wanted.filter)
    assert '"dport"}}, "right": {"set": [22, 80]}' in text
    assert '"dport"}}, "right": 53' in text
    assert text.count('"right": "10.0.0.3"') == len((("tcp", "udp", "echo"), ("ports", "echo"))) + 5
    assert "40000" not in text.replace("[40000, 40999]", ""), "the pool covers it"
    assert wanted.reserved_ports == (
        (22, 22),
        (53, 53),
        (80, 80),
        (443, 443),
        (32768, 60999),
        (40000, 40000),
        (40000, 40999),
    )


def test_whoever_may_manage_out_may_use_static_ports() -> None:
    def opening(manage_out: Any) -> list[str]:
        wanted = kernel_filter(nat64={"static_bindings": [binding(22)]}, access={"manage_out": manage_out})
        return chain(wanted, "to_translator")

    assert "no manage-out from here" not in opening(True)
    assert "no manage-out from here" in opening(False)
    assert "manage-out allowed" not in opening(False)
    assert "manage-out allowed" in opening({"from": ["10.0.0.9/32"]})
    wanted = kernel_filter(access={"manage_out": False})
    assert "no manage-out from here" not in chain(wanted, "to_translator"), "a dynamic port only ever answers"
    narrow = {"intranet": ["10.0.0.4/32"]}
    wanted = kernel_filter(nat64={"static_bindings": [binding(22)]}, access=narrow)
    assert "answers to the intranet" in chain(wanted, "from_translator"), "who may open may be answered"
    assert "answers to the intranet" not in chain(kernel_filter(access=narrow), "from_translator")


def test_dns64_is_for_clients_and_the_interfaces_that_are_named() -> None:
    def asking(wanted: Filter) -> list[str]:
        rules = [e for where, e, comment in nftables.rules(wanted) if comment == "DNS64 is not for others"]
        assert all(rule[-1] == {"drop": None} for rule in rules)
        (names,) = {json.dumps(rule[0]["match"]["right"]) for rule in rules}
        return list(json.loads(names)["set"])

    assert asking(kernel_filter()) == ["lo", TUNNEL]
    assert asking(kernel_filter(dns64={"accept_interface": ["eth1"]})) == ["lo", TUNNEL, "eth1"]
    assert "DNS64 is not for others" not in chain(kernel_filter(dns64={"state": "disabled"}), "input")


def test_every_prefix_of_nat64_stays_inside() -> None:
    mappings = [f"{PREFIX}:7777::/96,0.0.0.0/0", "fd00:9::/96,10.9.0.0/16"]
    document = settings(nat64={"prefix_mapping": mappings})
    values = effective(document)
    wanted = desired_kernel(document, values, closed=frozenset()).filter
    assert {IPv6Network(f"{PREFIX}:7777::/96"), IPv6Network("fd00:9::/96")} <= set(wanted.own_prefixes)
    assert values.routes == (IPv6Network(f"{PREFIX}::/48"), IPv6Network("fd00:9::/96"))
