"""Imported files, made by the openssl program, with everything that can be wrong with them."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.certificates.imported import authorities, inspect, load_imported
from portico.certificates.trust import parse_certificates
from portico.errors import PorticoError
from portico.settings.document import load_data
from portico.settings.facts import Facts
from portico.settings.model import Certificates, Settings
from portico.settings.verify import verify


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with server certificates for several purposes, made without our own code."""
    directory = tmp_path_factory.mktemp("pki")
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        directory,
        *("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Corp CA", "-days", "3650"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    leaves = {
        "server": ("/CN=da.example.net", "subjectAltName=DNS:da.example.net"),
        "wildcard": ("/CN=*.example.net", "subjectAltName=DNS:*.example.net"),
        "other": ("/CN=www.example.net", "subjectAltName=DNS:www.example.net"),
        "nosan": ("/CN=da.example.net", "extendedKeyUsage=serverAuth"),
        "nosubject": ("/", "subjectAltName=critical,DNS:da.example.net"),
        "client": ("/CN=da.example.net", "subjectAltName=DNS:da.example.net\nextendedKeyUsage=clientAuth"),
    }
    for name, (subject, extensions) in leaves.items():
        (directory / f"{name}.ext").write_text(extensions + "\nbasicConstraints=CA:FALSE\n")
        openssl(directory, "req", "-new", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        openssl(
            directory,
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "365", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    openssl(directory, "pkey", "-in", "server.key", "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
    (directory / "chain.pem").write_bytes((directory / "server.pem").read_bytes() + (directory / "ca.pem").read_bytes())
    content = (directory / "server.pem").read_bytes()
    (directory / "truncated.pem").write_bytes(content[:-100])
    (directory / "empty.pem").write_bytes(b"")
    (directory / "garbage.pem").write_bytes(bytes(range(256)))
    (directory / "truncated.key").write_bytes((directory / "server.key").read_bytes()[:100])
    (directory / "folder.pem").mkdir()
    (directory / "index.txt").write_text("")
    (directory / "crlnumber").write_text("01\n")
    (directory / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=7\n"
    )
    openssl(directory, "ca", "-config", "ca.cnf", "-revoke", "client.pem", "-keyfile", "ca.key", "-cert", "ca.pem")
    openssl(directory, "ca", "-config", "ca.cnf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.pem", "-out", "ca.crl")
    return directory


def settings(pki: Path, **changes: Any) -> Settings:
    names: dict[str, Any] = {"server_certificate": "server.pem", "server_key": "server.key", "client_ca": ["ca.pem"]}
    files = {
        key: [str(pki / name) for name in value] if isinstance(value, list) else str(pki / value)
        for key, value in {**names, **changes}.items()
    }
    return load_data(
        {
            "schema_version": 1,
            "deployment": {
                "domain": "corp.example.net",
                "connect_to": "da.example.net",
                "organisation_prefix": "fd7c:1a2b:3c4d::/48",
            },
            "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
            "dns64": {"upstream_servers": ["10.0.0.53"]},
            "certificates": {"mode": "imported", **files},
            "network_location_server": {"state": "disabled"},
        }
    )


def codes(document: Settings, at: timedelta = timedelta(0)) -> list[str]:
    facts = Facts(now=datetime.now(UTC) + at, certificate_files=inspect(document.certificates))
    problems = verify(document, facts)
    for problem in problems:
        assert "/" in problem.why, problem
    return [problem.code for problem in problems]


@pytest.mark.parametrize("name", ["server.pem", "chain.pem"])
def test_good_files_have_no_problem(pki: Path, name: str) -> None:
    assert codes(settings(pki, server_certificate=name, crl=["ca.crl"])) == []
    assert codes(settings(pki, server_certificate="wildcard.pem", server_key="wildcard.key")) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"server_certificate": "missing.pem"}, "CERTIFICATE_FILE_MISSING"),
        ({"server_certificate": "empty.pem"}, "CERTIFICATE_FILE_EMPTY"),
        ({"server_certificate": "truncated.pem"}, "CERTIFICATE_FILE_TRUNCATED"),
        ({"server_certificate": "garbage.pem"}, "CERTIFICATE_FILE_WRONG_KIND"),
        ({"server_certificate": "server.key"}, "CERTIFICATE_FILE_WRONG_KIND"),
        ({"server_certificate": "folder.pem"}, "CERTIFICATE_FILE_NOT_READABLE"),
        ({"server_key": "missing.key"}, "CERTIFICATE_FILE_MISSING"),
        ({"server_key": "server.pem"}, "CERTIFICATE_FILE_WRONG_KIND"),
        ({"server_key": "truncated.key"}, "CERTIFICATE_FILE_TRUNCATED"),
        ({"server_key": "encrypted.key"}, "CERTIFICATE_KEY_ENCRYPTED"),
        ({"server_key": "other.key"}, "CERTIFICATE_KEY_MISMATCH"),
        ({"server_certificate": "other.pem", "server_key": "other.key"}, "CERTIFICATE_NAME_MISMATCH"),
        ({"server_certificate": "nosan.pem", "server_key": "nosan.key"}, "CERTIFICATE_NO_SAN"),
        ({"server_certificate": "nosubject.pem", "server_key": "nosubject.key"}, "CERTIFICATE_NO_SUBJECT"),
        ({"server_certificate": "client.pem", "server_key": "client.key"}, "CERTIFICATE_USAGE"),
        ({"client_ca": ["server.pem"]}, "CERTIFICATE_NOT_CA"),
        ({"client_ca": ["ca.pem", "empty.pem"]}, "CERTIFICATE_FILE_EMPTY"),
        ({"crl": ["garbage.pem"]}, "CERTIFICATE_FILE_WRONG_KIND"),
    ],
)
def test_each_fault_has_its_name(pki: Path, changes: dict[str, Any], code: str) -> None:
    assert codes(settings(pki, **changes)) == [code]


def test_time_makes_problems(pki: Path) -> None:
    document = settings(pki, crl=["ca.crl"])
    assert codes(document, -timedelta(days=1)) == ["CERTIFICATE_NOT_YET_VALID"] * 2
    assert codes(document, timedelta(days=8)) == ["CRL_OUTDATED"]
    assert codes(document, timedelta(days=350)) == ["CERTIFICATE_EXPIRES_SOON", "CRL_OUTDATED"]
    assert codes(document, timedelta(days=366)) == ["CERTIFICATE_EXPIRED", "CRL_OUTDATED"]


def test_the_gateway_gets_chain_key_and_authorities_once_each(pki: Path) -> None:
    material = load_imported(settings(pki, server_certificate="chain.pem", client_ca=["ca.pem", "ca.pem"]).certificates)
    assert len(parse_certificates(material.certificate_chain)) == 2
    assert len(parse_certificates(material.client_ca)) == 1
    assert "PRIVATE KEY" in material.private_key
    assert "PRIVATE KEY" not in repr(material)
    assert len(authorities(settings(pki).certificates)) == 1


@pytest.mark.parametrize(
    "changes", [{"server_key": "other.key"}, {"server_certificate": "empty.pem"}, {"client_ca": ["x"]}]
)
def test_what_cannot_be_loaded_names_the_file(pki: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(PorticoError, match=str(pki)):
        load_imported(settings(pki, **changes).certificates)


@given(st.binary(max_size=120), st.sampled_from(["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "X509 CRL", ""]))
def test_arbitrary_bytes_in_any_file_are_a_problem_and_no_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "file.pem"
    if kind:
        content = f"-----BEGIN {kind}-----\n".encode() + content + f"\n-----END {kind}-----\n".encode()
    path.write_bytes(content)
    name = str(path)
    certificates = Certificates(mode="imported", server_certificate=name, server_key=name, client_ca=[name], crl=[name])
    assert all(found.trouble is not None for found in inspect(certificates))
    with pytest.raises(PorticoError):
        load_imported(certificates)
