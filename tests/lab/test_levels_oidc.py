"""The second level of access at an OpenID Connect provider of the intranet, whose certificate the house issued."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.trust import private_pem, to_pem
from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.topology import CORP_DOMAIN
from tests.lab.test_levels import MGMT4, MGMT6, SECONDS, closes, is_closed, level, opens
from tests.peers.provider import Browser, command
from tests.peers.user_ca import UserCa

PORT = 8443
NAME = f"mgmt.{CORP_DOMAIN}"
CA_FILE = "/etc/portico/login-ca.pem"


class Provider:
    """The provider on the management server, and people with browsers beside it."""

    def __init__(self, lab: Lab) -> None:
        self._host = lab.host("mgmt")
        authority = UserCa("the house", datetime.now(UTC))
        self.authority = to_pem(authority.certificate)
        certificate, key = authority.issue(NAME, dns=NAME, usage=ExtendedKeyUsageOID.SERVER_AUTH)
        self._host.write("/etc/login.pem", to_pem(certificate))
        self._host.write("/etc/login.key", private_pem(key), 0o600)
        self._host.start_service("login", command(PORT, place=(NAME, "/etc/login.pem", "/etc/login.key")))
        wait.until("the provider", lambda: "ready" in self._host.log("login").read_text(), timeout=SECONDS,
                   evidence=lambda: self._host.log_tail("login"))  # fmt: skip

    def confirm(self, url: str, monkeypatch: pytest.MonkeyPatch, *, refuses: bool = False) -> None:
        """Somebody opens the page that a command line shows, at a computer of the intranet."""
        browser = Browser("200", refuses=refuses, trust=ssl.create_default_context(cadata=self.authority))
        ask: Callable[..., Any] = socket.getaddrinfo
        with monkeypatch.context() as patch, self._host.network():
            patch.setattr(socket, "getaddrinfo", lambda _host, port, *rest, **more: ask(MGMT6, port, *rest, **more))
            browser.open(url)


@pytest.fixture(scope="module")
def provider(lab: Lab) -> Provider:
    """The deployment with users who log in at it."""
    server, found = lab.host("da1"), Provider(lab)
    server.write(CA_FILE, found.authority)
    server.run("portico", "management-servers", "add", "mgmt", MGMT4, MGMT6, "--type", "Update", "--yes", timeout=60.0)
    settings = {"issuer": f"https://{NAME}:{PORT}", "client_id": "portico", "ca_file": CA_FILE}
    server.run(
        "portico",
        "settings",
        "set",
        "access.user_authentication=oidc",
        f"access.user_oidc={{{', '.join(f'{name}: {value!r}' for name, value in settings.items())}}}",
        "--yes",
        timeout=60.0,
    )
    return found


def begin(client: Host, name: str) -> str:
    """The user's command line; the page that it shows."""
    client.start_service(name, ["portico", "client", "login"])

    def page() -> str | None:
        found = re.search(r"https://\S+", client.log(name).read_text().replace("\n", " "))
        return found[0] if found else None

    return wait.until("the page to confirm the login on", page, timeout=SECONDS,
                      evidence=lambda: client.log_tail(name)) or ""  # fmt: skip


def test_the_intranet_opens_for_whom_the_provider_knows_and_closes_when_it_is_revoked(
    lab: Lab, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = lab.host("client1"), lab.host("da1")
    is_closed(client)
    assert level(client)["level"] == "Machine"
    provider.confirm(begin(client, "refused"), monkeypatch, refuses=True)
    wait.until("the command line to say so", lambda: "refused" in client.log("refused").read_text(), timeout=SECONDS)
    is_closed(client)
    provider.confirm(begin(client, "bob"), monkeypatch)
    opens(client)
    wait.until("the level", lambda: (level(client)["level"], level(client)["user"]) == ("User", "bob"), timeout=SECONDS,
               evidence=lambda: client.log_tail("bob"))  # fmt: skip
    server.run("portico", "users", "revoke", "bob", "--yes")
    closes(client)
    assert level(client)["level"] == "Machine"
