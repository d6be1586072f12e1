"""Which addresses a machine asks its links for, and what it says of the certificate that clients are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portico.server import facts
from portico.server.facts import read_facts
from portico.settings.addresses import Address
from portico.settings.document import load_data
from portico.settings.facts import Interface
from portico.settings.model import Settings
from tests.unit.settings.test_verify import balanced, changed

MAC = "02:00:00:00:00:07"


class Link:
    """Another machine has all addresses that are asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {}
        self.ignored: dict[str, list[str]] = {}

    def __call__(
        self, interface: str, addresses: Sequence[Address], ignored: Sequence[str] = (), /
    ) -> Mapping[Address, str]:
        self.asked.setdefault(interface, []).extend(map(str, addresses))
        self.ignored.setdefault(interface, []).extend(ignored)
        return dict.fromkeys(addresses, MAC)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Interface]:
    """The interfaces of the machine; the first internal DIP is on it already, the VIPs too."""
    present = {
        "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"),)),
        "eth1": Interface(
            "eth1",
            addresses=(ip_interface("10.0.0.2/24"), ip_interface("10.0.0.12/24"), ip_interface("fe80::1/64")),
        ),
        "eth2": Interface("eth2", addresses=(ip_interface("192.0.2.1/24"),)),
    }
    monkeypatch.setattr(facts, "_network", lambda: (dict(present), ()))
    return present


def asked(settings: Settings, *, own: bool) -> dict[str, list[str]]:
    link = Link()
    found = read_facts(settings, own_name="da1", probe=link, probe_own=own)
    told = {str(address) for address in found.in_use}
    assert told == {address for addresses in link.asked.values() for address in addresses}
    return link.asked


def test_before_a_change_only_addresses_that_are_missing_here_are_asked_for(machine: dict[str, Interface]) -> None:
    assert asked(load_data(changed(balanced())), own=False) == {
        "eth0": ["203.0.113.12"],
        "eth1": ["fd7c:1a2b:3c4d:1::12"],
    }
    assert asked(load_data(changed({})), own=False) == {}


def test_a_check_asks_for_the_machine_s_own_addresses_too(machine: dict[str, Interface]) -> None:
    assert asked(load_data(changed(balanced())), own=True) == {
        "eth0": ["203.0.113.12", "203.0.113.11"],
        "eth1": ["10.0.0.12", "fd7c:1a2b:3c4d:1::12", "10.0.0.2", "fd7c:1a2b:3c4d:1::2"],
    }
    assert asked(load_data(changed({})), own=True) == {"eth0": ["203.0.113.11"], "eth1": ["10.0.0.2", "10.0.0.12"]}
    machine["eth0"] = Interface("eth0", up=False, addresses=machine["eth0"].addresses)
    assert asked(load_data(changed({})), own=True) == {"eth1": ["10.0.0.2", "10.0.0.12"]}


def test_servers_of_the_cluster_may_have_its_virtual_addresses(machine: dict[str, Interface]) -> None:
    link = Link()
    read_facts(load_data(changed(balanced())), own_name="da1", probe=link, probe_own=True)
    assert link.ignored["eth0"] == ["02:bf:cb:00:71:0b", "03:bf:cb:00:71:0b", "01:00:5e:7f:71:0b"]
    assert "02:bf:0a:00:00:02" in link.ignored["eth1"], "the first internal address names the others' MAC too"


def write_certificate(path: Path, issuer: x509.Name, subject: x509.Name) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("da.example.net")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def name(**parts: str) -> x509.Name:
    kinds = {"common": NameOID.COMMON_NAME, "organisation": NameOID.ORGANIZATION_NAME}
    return x509.Name([x509.NameAttribute(kinds[key], value) for key, value in parts.items()])


@pytest.mark.parametrize(
    ("issuer", "house", "self_signed"),
    [
        (name(common="R11", organisation="Example Trust"), "Example Trust", False),
        (name(common="R11"), "R11", False),
        (name(common="da.example.net"), "da.example.net", True),
    ],
)
def test_a_certificate_says_how_it_was_issued(
    tmp_path: Path, machine: dict[str, Interface], issuer: x509.Name, house: str, self_signed: bool
) -> None:
    path = tmp_path / "server.pem"
    write_certificate(path, issuer, name(common="da.example.net"))
    built_in = read_facts(load_data(changed({})), server_certificate=path).server_certificate
    imported = {"certificates": {"mode": "imported", "server_certificate": str(path)}}
    named = read_facts(load_data(changed(imported))).server_certificate
    for found in (built_in, named):
        assert found is not None
        assert (found.issuer, found.self_signed, found.names) == (house, self_signed, ("da.example.net",))
    lost = read_facts(load_data(changed({})), server_certificate=tmp_path / "none.pem").server_certificate
    assert lost is not None and lost.trouble == "missing"
    assert read_facts(load_data(changed({}))).server_certificate is None


def test_sockets_of_nobody_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   0: 0C00000A:{port:04X} 0D00000A:09C9 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"
    text = head + row.format(port=40000, state="06", inode=0) + row.format(port=40001, state="01", inode=4026531)
    opening = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: StringIO(text) if str(self) == "/proc/net/tcp" else opening(self, *a, **k)
    )
    ours = [item for item in read_facts().connections if item.address == ip_address("10.0.0.12")]
    assert [item.port for item in ours] == [40001]
