"""The section `store`: where the revisions of a cluster's settings are decided, and who of it runs etcd."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from portico.errors import LimitReached
from portico.settings.kinds import AnyAddress, CertificatePath, FilePath, KeyPath, Section, ShortName

if TYPE_CHECKING:
    from portico.settings.model import Settings

VOTERS: Final = 3
"""Members of etcd: the first three servers. More would only make writing slower."""

MAXIMUM_FORMER: Final = 256
"""Certificates that etcd is told to refuse, of witnesses that were taken out."""

_ENDPOINT = re.compile(r"https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", flags=re.ASCII)


def _endpoint(value: object) -> str:
    text = value.strip().rstrip("/") if isinstance(value, str) else ""
    if not _ENDPOINT.fullmatch(text):
        raise ValueError(f"'{value}' is no endpoint: https://HOST:PORT, with TLS always")
    return text


def _made(pattern: str, why: str) -> BeforeValidator:
    """A text that a command makes and nobody writes; `why` tells whoever did."""

    def check(value: object) -> str:
        text = value if isinstance(value, str) else ""
        if not re.fullmatch(pattern, text):
            raise ValueError(why)
        return text

    return BeforeValidator(check)


Endpoint = Annotated[str, BeforeValidator(_endpoint)]
Generation = Annotated[
    str, _made(r"[0-9a-f]{8,32}", "'portico cluster store move etcd' makes it; it is not written by hand")
]
Fingerprint = Annotated[str, _made(r"[0-9a-f]{64}", "'portico witness install' makes it; it is not written by hand")]
Serial = Annotated[
    str, _made(r"[1-9a-f][0-9a-f]{0,39}", "a serial number is lower-case hex, as 'portico witness install' makes it")
]


class Witness(Section):
    """A machine that is no server of the cluster and only votes in its etcd, beside two servers."""

    name: ShortName = Field(description="name of the machine")
    address: AnyAddress = Field(description="where the servers find its member of etcd")
    fingerprint: Fingerprint = Field(description="SHA-256 of the certificate that it shows; made when it is installed")
    serial: Serial = Field(description="serial number of that certificate, in hex")


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
    witness: Witness | None = Field(
        default=None, description="votes beside two servers, so that either may be lost: `portico witness install`"
    )
    former_witnesses: list[Serial] = Field(
        default_factory=list,
        max_length=MAXIMUM_FORMER,
        description="serial numbers of certificates of witnesses that were taken out: etcd refuses them",
    )


def with_witness(section: ClusterStore, witness: Witness | None) -> ClusterStore:
    """The section with another witness, or with none: etcd refuses the certificate of the one before. Pure.

    Raises:
        LimitReached: code WITNESSES_FULL.
    """
    former = list(section.former_witnesses)
    if section.witness is not None and section.witness.serial not in former:
        former.append(section.witness.serial)
    if len(former) > MAXIMUM_FORMER:
        raise LimitReached(
            "The witness cannot be taken out",
            why=f"etcd is told to refuse {MAXIMUM_FORMER} certificates of earlier ones already",
            resolution="Begin the cluster anew, which makes a new CA: portico lb disable, then portico lb enable",
            code="WITNESSES_FULL",
        )
    return section.model_copy(update={"witness": witness, "former_witnesses": former})


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

    Two would be worse than one: both would have to be there. So a cluster of two servers without a witness has its
    etcd on the first of them, which is also the one that may change settings alone when they lose sight of each other.
    Where three servers vote, a witness rests.
    """
    balancing = settings.load_balancing
    store = settings.store
    if balancing is None or store.kind != "etcd" or store.endpoints:
        return Voters((), "etcd is not Portico's own" if store.endpoints else "the store is not etcd")
    servers = [server.name for server in sorted(balancing.servers, key=lambda server: server.priority)]
    if len(servers) >= VOTERS:
        return Voters(tuple(servers[:VOTERS]), "the first three servers")
    if len(servers) == VOTERS - 1 and store.witness is not None:
        return Voters((*servers, store.witness.name), "the two servers, and the witness")
    return Voters(tuple(servers[:1]), "the first server; three members need three servers, or two and a witness")
