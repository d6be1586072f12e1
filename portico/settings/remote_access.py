"""Sections for parts of Remote Access that this version does not have, with the words Windows has for them.

They are here so that a document that asks for one is told so, with the rules that would hold, instead of being told
that the key is misspelt. `portico.settings.rules.remote_access` refuses whatever they switch on. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from portico.settings.kinds import Ipv6Prefix, Section, State


@dataclass(frozen=True, order=True)
class AddressRange:
    """Consecutive IPv4 addresses, both ends included: `10.1.0.10,10.1.0.200`, as `-VpnIPAddressRange` has them."""

    first: IPv4Address
    last: IPv4Address

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """Raises ValueError with what is wrong about the text."""
        first_text, comma, last_text = (part.strip() for part in text.partition(","))
        if not comma:
            raise ValueError(f"'{text}' has no end; write '<first IPv4 address>,<last IPv4 address>'")
        first, last = IPv4Address(first_text), IPv4Address(last_text)
        if first > last:
            raise ValueError(f"{first} is behind {last}; write the lower address first")
        return cls(first, last)

    def __str__(self) -> str:
        return f"{self.first},{self.last}"

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def overlaps(self, other: AddressRange) -> bool:
        return self.first <= other.last and other.first <= self.last


def overlapping(ranges: Iterable[tuple[str, AddressRange]]) -> Iterator[tuple[str, AddressRange, str, AddressRange]]:
    """Named ranges that share addresses with an earlier one: both names and ranges, each later range once."""
    reaching: tuple[str, AddressRange] | None = None
    for name, found in sorted(ranges, key=lambda item: item[1]):
        if reaching is not None and reaching[1].overlaps(found):
            yield *reaching, name, found
        if reaching is None or found.last > reaching[1].last:
            reaching = (name, found)


def _range(value: object) -> AddressRange:
    if isinstance(value, AddressRange):
        return value
    if not isinstance(value, str):
        raise ValueError("text was expected")
    return AddressRange.parse(value.strip())


Range = Annotated[AddressRange, BeforeValidator(_range), PlainSerializer(str, return_type=str, when_used="json")]


class Vpn(Section):
    """Client VPN. This version has none: only `disabled` can be applied."""

    state: State = Field(default="disabled", description="whether remote computers can open a client VPN")
    ip_address_assignment: Literal["static", "dhcp"] = Field(
        default="static", description="where clients get IPv4 addresses; a cluster has static pools only"
    )
    ip_address_ranges: list[Range] = Field(
        default_factory=list, max_length=64, description="'first,last' IPv4 address: the static pool of a single server"
    )
    ipv6_prefix: Ipv6Prefix | None = Field(
        default=None, description="null: clients get no IPv6 address; a /64, with load balancing a /59"
    )


class Teredo(Section):
    """IPv6 through UDP port 3544. This version has none: only `disabled` can be applied."""

    state: State = Field(default="disabled", description="whether clients behind NAT may come by Teredo")


class Isatap(Section):
    """IPv6 over the IPv4 of the intranet. This version has none: only `disabled` can be applied."""

    state: State = Field(default="disabled", description="whether this server is the intranet's ISATAP router")


class Authentication(Section):
    """How users prove who they are inside the tunnel. This version has none of it: only `disabled` can be applied."""

    kerberos_proxy: State = Field(default="disabled", description="users without computer certificates, over HTTPS")
    two_factor: State = Field(default="disabled", description="one-time passwords or smart cards")
    health_check: State = Field(default="disabled", description="Network Access Protection, which Windows gave up")


class RemoteClients(Section):
    """What clients are told besides the NRPT. This version has none of it: only `disabled` can be applied."""

    force_tunnel: State = Field(default="disabled", description="whether all of a client's traffic goes through")
    downlevel: State = Field(default="disabled", description="whether Windows 7 clients are served")
