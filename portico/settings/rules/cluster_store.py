"""The cluster's store, the document."""

from __future__ import annotations

from collections.abc import Iterator

from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

ALONE = CATALOGUE.add(
    "STORE_ALONE",
    what="A server that serves alone keeps its settings in its own database",
    why="store.kind is etcd, and load_balancing is null",
    resolution="Move the store back first: portico cluster store move sqlite; or enable load balancing",
    example="store: {kind: etcd, ...}   # and load_balancing is null",
)
GENERATION = CATALOGUE.add(
    "STORE_GENERATION",
    what="It is not known which etcd has the settings",
    why="store.kind is {kind}, and store.generation is {generation}",
    resolution="Let 'portico cluster store move etcd' and 'portico cluster store move sqlite' change both",
    example="store: {kind: etcd}",
)
EXISTING = CATALOGUE.add(
    "STORE_EXISTING",
    what="An existing etcd is asked with a certificate only",
    why="store.endpoints, ca, certificate and key belong together, and missing are: {missing}",
    resolution="Give all of them, as files that are on every server, or none",
    example='store: {endpoints: ["https://etcd.corp.example.net:2379"]}',
)

WITNESS = CATALOGUE.add(
    "STORE_WITNESS",
    what="{name} cannot be the witness",
    why="{why}",
    resolution="Give it a name and an address of its own: portico cluster store witness remove, then add it again",
    example="store: {witness: {name: da2, ...}}   # and da2 is a server",
)


def rule_store(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    store = settings.store
    if store.kind == "etcd" and settings.load_balancing is None:
        yield ALONE.problem("store.kind")
    if (store.kind == "etcd") != (store.generation is not None):
        yield GENERATION.problem("store.generation", kind=store.kind, generation=store.generation or "null")
    parts = {"endpoints": store.endpoints, "ca": store.ca, "certificate": store.certificate, "key": store.key}
    missing = [name for name, value in parts.items() if not value]
    if 0 < len(missing) < len(parts):
        yield EXISTING.problem("store.endpoints", missing=", ".join(missing))


def rule_witness(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    witness, balancing = settings.store.witness, settings.load_balancing
    if witness is None or balancing is None:
        return
    own = {address.ip for server in balancing.servers for address in server.dedicated_addresses}
    virtual = {address.ip for address in balancing.virtual_addresses}
    if balancing.server(witness.name) is not None:
        yield WITNESS.problem("store.witness.name", name=witness.name, why="a server of the cluster has this name")
    if witness.address in own | virtual:
        why = f"{witness.address} is an address of the cluster's servers"
        yield WITNESS.problem("store.witness.address", name=witness.name, why=why)
    if settings.store.endpoints:
        why = "it votes in Portico's own etcd, and store.endpoints names another one"
        yield WITNESS.problem("store.witness", name=witness.name, why=why)


RULES = (rule_store, rule_witness)
