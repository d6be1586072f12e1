"""`portico check` looks at every machine of a cluster: all is well, then several things are not, and each is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import portico
from portico.lab import deployment, wait
from portico.lab.hosts import CODE, Host
from portico.lab.lab import Lab
from portico.lab.topology import CONNECT_TO, CORP_DOMAIN, VIRTUAL, dedicated
from portico.settings.location import NLS_LABEL
from tests.lab.continuity import SERVERS
from tests.lab.helpers import SERVER_ADDRESS

FILES = "/etc/portico/imported"
OLDER = "0.0.9"


def checked(host: Host, *options: str, status: int = 0) -> dict[str, Any]:
    """The report as any server gives it."""
    done = host.run("portico", "check", "--json", *options, check=False, timeout=60.0)
    assert done.returncode == status, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def found(report: dict[str, Any]) -> set[tuple[str, tuple[str, ...]]]:
    return {(item["code"], tuple(item["servers"])) for item in report["findings"]}


class Issuer:
    """A CA of the organisation's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Trust")])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made = self._signed(self._name, self._key.public_key()).add_extension(basic, critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=365))
        )

    def issue(self, host: Host, name: str, file: str = "server") -> None:
        """Puts a certificate for a name on a host, its key, and the CA's certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(subject, key.public_key()).add_extension(names, critical=False)
        encoding = serialization.Encoding.PEM
        text = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        host.write(f"{FILES}/{file}.pem", made.sign(self._key, hashes.SHA256()).public_bytes(encoding).decode())
        host.write(f"{FILES}/{file}.key", text.decode(), 0o600)
        host.write(f"{FILES}/ca.pem", self._certificate)


@contextmanager
def other_version(host: Host) -> Iterator[None]:
    """The host's Portico says that it is an older one."""
    host.write("/etc/portico/version.py", f'__version__ = "{OLDER}"\n')
    place = f"{CODE}/portico/__init__.py"
    host.run("mount", "--bind", "/etc/portico/version.py", place)
    try:
        host.stop_service(deployment.SERVER)
        deployment.start_server(host)
        yield
    finally:
        host.run("umount", place)


def test_a_healthy_cluster_is_well_and_each_thing_that_is_not_is_named(cluster: Lab) -> None:
    first, second, third = (cluster.host(name) for name in SERVERS)
    for server in (first, second, third):
        server.write("/etc/hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} {CONNECT_TO}\n")  # as public DNS would
    for server in (first, second, third):
        report = checked(server)
        assert report["findings"] == [], report["findings"]
        assert [(s["server"], s["state"], s["version"]) for s in report["servers"]] == [
            (name, "checked", portico.__version__) for name in SERVERS
        ]
    assert "All is well" in first.output("portico", "check", timeout=60.0)

    issuer = Issuer()
    issuer.issue(first, CONNECT_TO)
    issuer.issue(second, CONNECT_TO)
    issuer.issue(third, "*.example.net")
    for server in (first, second, third):
        issuer.issue(server, f"{NLS_LABEL}.{CORP_DOMAIN}", "nls")
    change = first.json("portico", "settings", "show", "--json")["settings"]
    change["certificates"] |= {
        "mode": "imported",
        "server_certificate": f"{FILES}/server.pem",
        "server_key": f"{FILES}/server.key",
        "client_ca": [f"{FILES}/ca.pem"],
    }
    change["network_location_server"] |= {"certificate": f"{FILES}/nls.pem", "key": f"{FILES}/nls.key"}
    first.write("/etc/portico/imported.yaml", json.dumps(change))
    candidate = checked(first, "--file", "/etc/portico/imported.yaml")
    assert candidate["findings"] == [], f"wildcard and named may mix: {candidate}"
    plan = first.json("portico", "plan", "/etc/portico/imported.yaml", "--json", timeout=60.0)
    texts = [item["text"] for item in plan["consequences"]]
    assert any(text.startswith("1 client will redial (of da") for text in texts), texts
    assert "1 client must enrol again: its certificate is of the built-in CA" in texts
    first.run("portico", "settings", "apply", "/etc/portico/imported.yaml", "--yes", timeout=60.0)
    assert checked(second)["findings"] == []

    number = checked(first)["revision"]
    taken = dedicated(2)["eth1"][-1]
    neighbour = cluster.host("mgmt")
    issuer.issue(second, "www.example.org")
    for address in (taken, VIRTUAL["eth1"][-1]):
        neighbour.run("ip", "addr", "add", address, "dev", "eth0", "nodad")
    third.run("ip", "link", "set", "eth0", "down")
    third.run("ip", "link", "set", "eth0", "name", "gone0")
    expected = {
        ("CERTIFICATE_NAME_MISMATCH", ("da2",)),
        ("LB_ADDRESS_IN_USE", ("da2",)),
        ("LB_VIP_IN_USE", SERVERS),
        ("SERVER_VERSION", ("da2",)),
        ("SERVER_ADAPTER", ("da3",)),
        ("INTERFACE_MISSING", ("da3",)),
    }
    with other_version(second):
        wait.until(
            "da1 to reach da2",
            lambda: all(s["reachable"] for s in first.json("portico", "lb", "servers", "--json")["servers"]),
        )
        report = checked(first, status=3)
        assert found(report) >= expected
        assert report["revision"] == number, "nothing was changed"
        people = first.run("portico", "check", check=False, timeout=60.0)
        assert people.returncode == 3
        for text in ("www.example.org", taken.split("/")[0], OLDER, "da3 has no eth0 for the Internet side"):
            assert text in people.stdout
