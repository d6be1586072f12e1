"""The section `store`: where the revisions of a cluster's settings are decided, and who of it runs etcd."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from portico.settings.kinds import CertificatePath, FilePath, KeyPath, Section

if TYPE_CHECKING:
    from portico.settings.model import Settings

VOTERS: Final = 3
"""Members of etcd: the first three servers. More would only make writing slower."""

_ENDPOINT = re.compile(r"https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", flags=re.ASCII)


def _endpoint(value: object) -> str:
    text = value.strip().rstrip("/") if isinstance(value, str) else ""
    if not _ENDPOINT.fullmatch(text):
        raise ValueError(f"'{value}' is no endpoint: https://HOST:PORT, with TLS always")
    return text


def _generation(value: object) -> str:
    text = value if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-f]{8,32}", text):
        raise ValueError("'portico cluster store move etcd' makes it; it is not written by hand")
    return text


Endpoint = Annotated[str, BeforeValidator(_endpoint)]
Generation = Annotated[str, BeforeValidator(_generation)]


class ClusterStore(Section):
    """Which store decides about changes of a cluster's settings."""

    kind: Literal["sqlite", "etcd"] = Field(
        default="sqlite",
        description="sqlite: the servers agree among themselves; etcd: `portico cluster store move` changes it",
    )
    generation: Generation | None = Field(
        default=None, description="which etcd it is; a new one at each move and recovery"
    )
    endpoints: list[Endpoint] = Field(
        default_factory=list, max_length=16, description="of an etcd that is there already; empty: Portico's own"
    )
    ca: FilePath | None = Field(default=None, description="PEM file of that etcd's CA, the same path on every server")
    certificate: CertificatePath | None = Field(default=None, description="PEM file of the client certificate for it")
    key: KeyPath | None = Field(default=None, description="PEM file of that certificate's private key")


@dataclass(frozen=True)
class Voters:
    """Who runs etcd by the document.

    Attributes:
        names: servers, in the order of their priorities.
        why: why they are these, in words.
    """

    names: tuple[str, ...]
    why: str


def voters(settings: Settings) -> Voters:
    """The members that etcd is to have: three, or one. Pure.

    Two would be worse than one: both would have to be there. So a cluster of two servers has its etcd on the
    first of them, which is also the one that may change settings alone when they lose sight of each other.
    """
    balancing = settings.load_balancing
    store = settings.store
    if balancing is None or store.kind != "etcd" or store.endpoints:
        return Voters((), "etcd is not Portico's own" if store.endpoints else "the store is not etcd")
    servers = [server.name for server in sorted(balancing.servers, key=lambda server: server.priority)]
    if len(servers) >= VOTERS:
        return Voters(tuple(servers[:VOTERS]), "the first three servers")
    return Voters(tuple(servers[:1]), "the first server; three members need three servers")
