"""What may come out of the tunnel: one nftables table of our own, nothing else on the machine is touched.

The table can only take away: what other tables drop stays dropped. This computer is no router for the intranet, so
nothing is forwarded between the tunnel and other interfaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv6Network

from portico.errors import Unavailable

TABLE = "portico_client"


def render(interface: str, *, inbound: bool, sources: Sequence[IPv6Network]) -> str:
    """The table as an nft script that replaces it as a whole.

    Args:
        interface: the tunnel.
        inbound: whether the intranet may open connections to this computer.
        sources: from where; empty for any address. IPv6 link-local is for neighbour discovery only.
    """
    allowed = []
    if inbound:
        match = ""
        if sources:
            # Overlapping prefixes are refused in an interval set unless they are merged.
            elements = ", ".join(sorted(str(network) for network in sources))
            allowed.append(f"set sources {{ type ipv6_addr; flags interval; auto-merge; elements = {{ {elements} }} }}")
            match = "ip6 saddr @sources "
        accept = f"\n    {match}accept"
    else:
        accept = ""
    declarations = "".join(f"  {line}\n" for line in allowed)
    return f"""table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
{declarations}  chain from_tunnel {{
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} ip6 hoplimit 255 accept
    ip6 saddr fe80::/10 drop
    ct state established,related accept
    icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
    ct state invalid drop{accept}
    counter drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{interface}" jump from_tunnel
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{interface}" counter drop
    oifname "{interface}" counter drop
  }}
}}
"""


async def apply(script: str) -> None:
    """Loads a script. Raises Unavailable (FIREWALL_FAILED); the table is as it was."""
    await _nft("-f", "-", script=script)


async def remove() -> None:
    """Removes the table if it is there. Raises Unavailable (FIREWALL_FAILED)."""
    await _nft("-f", "-", script=f"table inet {TABLE}\ndelete table inet {TABLE}\n")


async def _nft(*arguments: str, script: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate(script.encode())
    except OSError as error:
        raise _failed(str(error)) from None
    if process.returncode != 0:
        raise _failed(" ".join(errors.decode("utf-8", "replace").split())[:500])


def _failed(why: str) -> Unavailable:
    return Unavailable(
        "The firewall of the tunnel cannot be set",
        why=why,
        resolution="Install nftables and check that the kernel has it: nft list tables",
        code="FIREWALL_FAILED",
    )
