"""Taking the role and giving it back on this machine, for `Install-` and `Uninstall-RemoteAccess`."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from ipaddress import ip_address
from typing import Any

import dns.exception
import dns.resolver

from portico import paths
from portico.errors import Conflict, InvalidInput, NotPermitted
from portico.files import read_file
from portico.server import control, install
from portico.server.facts import read_facts
from portico.settings.document import load_data
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused, errors
from portico.settings.store import APPLIED_NAME
from portico.settings.verify import verify
from portico.transition.addressing import generate_organisation_prefix


class ThisMachine:
    """The machine that the command runs on."""

    def __init__(self, author: str) -> None:
        self._author = author

    def check(self, wish: dict[str, str]) -> list[dict[str, Any]]:
        """Every problem of an installation with these wishes; what is not given has its default."""
        return [problem.as_dict() for problem in self._problems(self._settings({"connect_to": self._name(), **wish}))]

    def install(self, wish: dict[str, str], *, dry_run: bool) -> list[str]:
        """Installs, or says which steps there are.

        Raises:
            SettingsRefused, Conflict, NotPermitted, InvalidInput: nothing was done.
        """
        state = paths.server_state()
        install.refuse_second_installation(state)
        settings = self._settings(wish)
        problems = self._problems(settings)
        if errors(problems):
            raise SettingsRefused("This machine cannot be installed with these settings", problems)
        steps = [step for step in install.install_steps(settings, state, author=self._author) if step.needed()]
        if dry_run:
            return [step.name for step in steps]
        self._require_root("Cannot install the server")
        return [f"{step.name} {step.do()}".strip() for step in steps]

    def uninstall(self, *, dry_run: bool) -> list[str]:
        """Stops the server and takes away what was made, or says what that is.

        Raises:
            Conflict: code LB_ENABLED; the virtual addresses would be lost.
        """
        state = paths.server_state()
        applied = state / APPLIED_NAME
        if applied.exists() and b"\nload_balancing: null" not in b"\n" + read_file(applied) and self._balanced(applied):
            raise Conflict(
                "This server is balanced with others",
                why="its virtual addresses would be on no machine, and routes and DNS lead to them",
                resolution="End load balancing first: Set-RemoteAccessLoadBalancer -Disable",
                code="LB_ENABLED",
            )
        steps = [step for step in install.uninstall_steps(state, purge=False) if step.needed()]
        if dry_run:
            return ["Stop the server", *(step.name for step in steps)]
        self._require_root("Cannot uninstall the server")
        done = ["Stop the server " + ("done" if control.stop(paths.runtime_directory()) else "it did not run")]
        return [*done, *(f"{step.name} {step.do()}".strip() for step in steps)]

    @staticmethod
    def _balanced(applied: Any) -> bool:
        text = read_file(applied).decode(errors="replace")
        return "internal_virtual_addresses" in text

    @staticmethod
    def _require_root(what: str) -> None:
        if os.geteuid() != 0:
            raise NotPermitted(what, why="this needs root", resolution="Run it with sudo")

    @staticmethod
    def _name() -> str:
        return socket.getfqdn()

    @staticmethod
    def _problems(settings: Settings) -> list[Problem]:
        return list(verify(settings, read_facts(settings, resolve=True)))

    def _settings(self, wish: dict[str, str]) -> Settings:
        facts = read_facts()
        names = [name for name, item in (facts.interfaces or {}).items() if item.up and name != "lo"]
        internet, internal = wish.get("internet"), wish.get("internal")
        if internet is None or internal is None:
            if len(names) != 1:
                raise InvalidInput(
                    "The external network adapter settings cannot be determined automatically on localhost",
                    why=f"the machine has: {', '.join(names) or 'no interface that is up'}",
                    resolution="Run the cmdlet again with -InternetInterface and -InternalInterface",
                    code="REMOTEACCESSERROR_112",
                )
            internet, internal = internet or names[0], internal or names[0]
        return load_data(
            {
                "schema_version": 1,
                "deployment": {
                    "domain": _domain(),
                    "connect_to": wish["connect_to"],
                    "organisation_prefix": str(generate_organisation_prefix(secrets.token_bytes)),
                },
                "server": {
                    "name": socket.gethostname().split(".")[0].lower(),
                    "internet_interface": internet,
                    "internal_interface": internal,
                },
                "dns64": {"upstream_servers": _dns_servers()},
            },
            source="the cmdlet",
        )


def _dns_servers() -> list[str]:
    """The DNS servers that the machine asks, as on Windows. Its own stub is none that DNS64 could ask."""
    servers: list[str] = []
    for file in ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"):
        try:
            found = dns.resolver.Resolver(file).nameservers
        except (OSError, dns.exception.DNSException):
            continue
        servers += [text for text in map(str, found) if not ip_address(text.partition("%")[0]).is_loopback]
    return list(dict.fromkeys(servers))[:8]


def _domain() -> str:
    """The machine's DNS domain; Windows takes that of Active Directory."""
    try:
        found = subprocess.run(
            ["hostname", "-d"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    if "." not in found:
        raise InvalidInput(
            "The domain of the intranet is not known",
            why="this machine has no DNS domain: hostname -d says nothing",
            resolution="Name it: portico server install --domain DOMAIN --connect-to NAME",
            code="CMDLET_DOMAIN_UNKNOWN",
        )
    return found
