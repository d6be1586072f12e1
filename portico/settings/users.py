"""Two levels of access: what a computer reaches before its user has authenticated, and how users do that."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from portico.settings.kinds import AnyAddress, Section
from portico.settings.management import Word

UserAuthentication = Literal["none", "certificate", "oidc"]


class ManagementServer(Section):
    """A server of the intranet that computers reach before anybody has logged on."""

    name: Word = Field(description="what it is called in lists")
    addresses: Annotated[list[AnyAddress], Field(min_length=1, max_length=64)] = Field(
        description="its IPv6 addresses, and the IPv4 ones that clients reach through NAT64"
    )
    type: Literal["Manual", "DomainController", "Dns", "Update"] = Field(
        default="Manual", description="what it is; all are treated alike"
    )
