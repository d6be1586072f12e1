"""What was seen on a small machine under a real systemd (`make test-units`), held without either."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace

import pytest

from portico import files, spawned
from portico.balancing.nlb import ruleset
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share
from portico.child import Program
from portico.native_process import harden
from portico.server import install
from portico.server.etcd import process
from portico.server.reconcile import nftables
from tests.unit.server.test_location_rules import kernel_filter

GRAMMAR = {"tcp", "udp", "icmp", "icmpv6", "esp"}
"""Protocols that nft's own grammar has (nftables 1.0.6, parser_bison.y); other names it looks up in /etc/protocols."""


def test_no_rule_names_a_protocol_that_is_looked_up_in_etc_protocols() -> None:
    """A small installation (Debian without netbase) has no such file."""
    matches = [
        expression["match"] for _, rule, _ in nftables.rules(kernel_filter()) for expression in rule
        if expression.get("match", {}).get("left") == {"meta": {"key": "l4proto"}}
    ]  # fmt: skip
    assert matches and all(isinstance(match["right"], int) for match in matches)


@pytest.mark.parametrize("rule", [Rule(), Rule(linger=600.0)])
def test_no_balancing_rule_does_either(rule: Rule) -> None:
    nic = NicPlan("eth0", "external", bytes(6), (IPv4Address("203.0.113.1"), IPv6Address("2001:db8::2")))
    text = ruleset.render(BalancingPlan((nic,), (rule,), 1), Owned(1, (Share.all(),), Share.all()))
    single = set(re.findall(r"l4proto (?:<= )?([^\s{]+) ", text)) - {"vmap"}
    mapped = {name for body in re.findall(r"l4proto vmap \{([^}]*)\}", text) for name in re.findall(r"(\S+) : ", body)}
    assert single | mapped
    assert {name for name in single | mapped if not name.isdigit()} <= GRAMMAR


def test_without_root_nothing_stands_before_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """setpriv calls capset whatever it is asked for, which the units without root forbid."""
    monkeypatch.setattr("portico.spawned.os.geteuid", lambda: 4711)
    assert spawned.drop_privileges(Program("etcd", "portico.server.etcd.process")) == []


def test_etcd_itself_is_what_the_store_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def popen(command: list[str], **options: object) -> SimpleNamespace:
        assert options["preexec_fn"] is harden, "it ends with its parent, and gains no privilege"
        started.append(command)
        return SimpleNamespace(stderr=iter(()), wait=lambda: 0, pid=1)

    monkeypatch.setattr(process, "find_etcd", lambda: "/usr/bin/etcd")
    monkeypatch.setattr("portico.server.etcd.process.subprocess.Popen", popen)
    config = {"directory": str(tmp_path), "data": "one", "must_exist": False, "keep": [], "files": {}, "arguments": []}
    process.Etcd(config, lambda reason: None)
    assert started == [["/usr/bin/etcd"]]


def test_the_server_s_unit_may_write_what_other_servers_bring() -> None:
    assert "\nConfigurationDirectory=portico\n" in install.unit_text("portico-server.service", "/p", "/python")


def test_a_read_only_file_system_is_named_with_the_way_to_open_it(tmp_path: Path) -> None:
    error = files.not_written(tmp_path / "key", OSError(30, "Read-only file system"))
    assert f"ReadWritePaths={tmp_path}" in error.resolution


@pytest.mark.parametrize("enabled", [True, False])
def test_units_of_the_package_are_disabled_when_the_role_is_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(install, "systemd_runs", lambda: True)
    monkeypatch.setattr(install, "unit_enabled", lambda: enabled)
    monkeypatch.setattr(install, "_run", asked.append)
    step = install.uninstall_steps(tmp_path, purge=False)[0]
    assert (step.name, step.needed()) == ("Disable portico-server.service", enabled)
    step.do()
    assert asked == [["systemctl", "disable", "portico-server.service"]]
