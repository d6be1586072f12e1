"""The account of the tunnel's process."""

from __future__ import annotations

import logging
import os
import pwd

log = logging.getLogger("portico.client.account")

ACCOUNT = "portico-client"


def account() -> str | None:
    """The child's account when it exists (enrolment makes it)."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ACCOUNT).pw_name
    except KeyError:
        log.warning("there is no user %s: the tunnel process runs as root without capabilities", ACCOUNT)
        return None
