"""What the server tells its clients so that they can say where they are and whether the intranet works."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from portico.settings.kinds import HostName
from portico.settings.urls import PageUrl

ShortText = Annotated[str, Field(max_length=500)]


class AssistantSettings(BaseModel):
    """The assistant's part of the client's settings.

    Attributes:
        nls_url: the network location server's page; None: this computer is always outside.
        nls_trust: by whom its certificate may be issued: `server`, whoever the tunnel's server is recognised by;
            `system`, also whoever this computer trusts anyway.
        corp_connectivity_addresses: what that name must resolve to through a way in, any of them; empty: not checked.
        tunnel_endpoints: addresses that answer pings through the tunnel.
        probes: as written in the server's settings; kinds that this program does not know are shown and not made.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    nls_url: PageUrl | None = None
    nls_trust: Literal["server", "system"] = "server"
    corp_connectivity_host: HostName | None = None
    corp_connectivity_addresses: tuple[IPv6Address, ...] = Field(default=(), max_length=16)
    web_probe_url: ShortText | None = None
    tunnel_endpoints: tuple[IPv6Address, ...] = Field(default=(), max_length=16)
    probes: tuple[ShortText, ...] = Field(default=(), max_length=16)
    support_email: ShortText | None = None

    @field_validator("web_probe_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("http://"):
            raise ValueError("the web probe is fetched over http")
        return url
