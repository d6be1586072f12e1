"""What the server tells its clients about location and probes, and what they keep of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from portico.client.assistance import Assistance
from portico.client.assistant.settings import AssistantSettings
from portico.client.currency import take_revoked
from portico.client.identity import ClientFiles, ClientSettings
from portico.errors import InvalidInput
from portico.location.clients import assistant_settings
from portico.server.enrolment import client_settings
from portico.settings.assistant import ConnectivityAssistant, parse_probe
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts
from tests.unit.client.test_assistant import Agent
from tests.unit.client.test_assistant_nls import Authority
from tests.unit.client.test_naming import SETTINGS, naming
from tests.unit.server.test_last_good_state import DATA


def told(**changes: object) -> AssistantSettings:
    settings = load_data({**DATA, **changes})
    found = client_settings(settings, effective(settings, Facts()), 1)
    parsed = ClientSettings.model_validate(json.loads(json.dumps(found)))
    assert parsed.assistant is not None
    return parsed.assistant


def test_clients_are_told_what_the_documents_describe() -> None:
    domain = load_data(DATA).deployment.domain
    found = told(connectivity_assistant={"probes": ["PING:app." + domain], "support_email": "help@" + domain})
    assert found.nls_url == f"https://directaccess-nls.{domain}:62000/", "one adapter"
    assert found.nls_trust == "server"
    assert found.corp_connectivity_host == f"directaccess-corpconnectivityhost.{domain}"
    (expected,) = found.corp_connectivity_addresses
    assert str(expected).endswith(":7777::7f00:1"), "IPv4 only: the NAT64 form of 127.0.0.1"
    assert found.web_probe_url == f"http://directaccess-WebProbeHost.{domain}/"
    assert [str(end)[-7:] for end in found.tunnel_endpoints] == ["1000::1", "1000::2"]
    assert (found.probes, found.support_email) == (("PING:app." + domain,), "help@" + domain)


def test_an_intranet_with_ipv6_is_told_by_its_loopback_and_parts_that_are_off_by_their_absence() -> None:
    found = told(
        dns64={"only_send_a_query": False},
        network_location_server={"state": "disabled"},
        web_probe={"state": "disabled"},
    )
    assert [str(address) for address in found.corp_connectivity_addresses] == ["::1"]
    assert (found.nls_url, found.web_probe_url) == (None, None)


def test_a_location_server_of_somebody_else_is_believed_by_the_computers_own_trust() -> None:
    found = told(network_location_server={"url": "https://nls.other.example.net/inside"})
    assert (found.nls_url, found.nls_trust) == ("https://nls.other.example.net/inside", "system")


def test_a_client_of_an_older_server_goes_on_as_before(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    (tmp_path / "settings.json").write_text('{"url": "https://da.example.net/IPHTTPS", "domain": "corp.example.net"}')
    assert files.settings().assistant is None


def test_what_a_newer_server_adds_is_left_out() -> None:
    values = effective(load_data(DATA), Facts())
    data = assistant_settings(load_data(DATA), values) | {"more": 1, "probes": ["SING:a song"]}
    assert AssistantSettings.model_validate(data).probes == ("SING:a song",)


@pytest.mark.parametrize(
    ("text", "kind", "host"),
    [
        ("HTTP:http://intra.corp.example.net/", "HTTP", "intra.corp.example.net"),
        ("http:https://[fd00::5]:8443/x?y=1", "HTTP", "fd00::5"),
        ("PING:App.corp.example.net", "PING", "app.corp.example.net"),
        ("PING:fd00::5", "PING", "fd00::5"),
        (r"FILE:\\files.corp.example.net\public\dir one\there.txt", "FILE", "files.corp.example.net"),
    ],
)
def test_probes_that_are_accepted(text: str, kind: str, host: str) -> None:
    probe = parse_probe(text)
    assert (probe.kind, probe.host) == (kind, host)
    assert ConnectivityAssistant(probes=[text]).probes == [str(probe)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app.corp.example.net",
        "SING:a song",
        "HTTP:ftp://intra.corp.example.net/",
        "HTTP:http://user:secret@intra.corp.example.net/",
        "HTTP:http://10.0.0.4/",
        "PING:10.0.0.4",
        "PING:-x",
        r"FILE:\\files\public",
        r"FILE:\\files\public\..\secret",
        'FILE:\\\\files\\public\\a";del b',
        "PING:" + "a" * 300,
        "PING:app\ncorp",
    ],
)
def test_probes_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_probe(text)


@pytest.mark.parametrize("text", ["help", "help@", "a b@corp.example.net", "x" * 60 + "@corp.example.net"])
def test_mail_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ConnectivityAssistant(support_email=text)


def test_only_a_newer_revocation_list_of_a_trusted_ca_is_kept(tmp_path: Path) -> None:
    files, authority = ClientFiles(tmp_path), Authority()
    assert files.revoked() is None
    second = authority.revoke(7, number=2)
    assert take_revoked(files, second, authority.pem)
    assert not take_revoked(files, second, authority.pem)
    assert not take_revoked(files, authority.revoke(number=1), authority.pem), "a server that is behind the others"
    with pytest.raises(InvalidInput):
        take_revoked(files, Authority().revoke(number=3), authority.pem)
    assert files.revoked() == second
    files.save_revoked("damaged")
    assert take_revoked(files, second, authority.pem)

    agent = Agent(files)
    assert Assistance(agent, authority.pem).assistant.outlook.revoked is not None
    assert Assistance(agent, Authority().pem).assistant.outlook.revoked is None, "a new enrolment, another CA"
    files.forget()
    assert files.revoked() is None


def test_inside_no_rule_counts_and_outside_all_do_again(tmp_path: Path) -> None:
    from portico.client.resolv_conf import ResolvConfFile

    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    file = ResolvConfFile(tmp_path / "resolv.conf", tmp_path / "before")

    async def run() -> None:
        found = naming(file)
        await found.start(SETTINGS)
        assert found.core.policy.servers_for("app.corp.example.net")
        assert found.upstream() == ("192.0.2.1",)
        await found.set_inside(True)
        assert not found.core.policy.servers_for("app.corp.example.net")
        assert file.is_ours(), "the resolver stays, and asks where the machine asks anyway"
        await found.change(SETTINGS)
        assert not found.core.policy.servers_for("app.corp.example.net")
        await found.set_inside(False)
        assert found.core.policy.servers_for("app.corp.example.net")
        await found.stop()

        quiet = naming(file, dns="none")
        await quiet.start(SETTINGS)
        assert quiet.upstream() == ("192.0.2.1",)
        await quiet.stop()

    asyncio.run(run())
