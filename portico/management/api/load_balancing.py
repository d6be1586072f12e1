"""Routes about load balancing: edits of the settings document, each one a transaction like any other change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, ValidationError

from portico.errors import InvalidInput, NotFound
from portico.management.api.models import AdviceModel, Model, OutcomeAnswer
from portico.server.agent import Agent, Outcome
from portico.server.balancer.advising import advised
from portico.server.balancer.link import interface_mac
from portico.server.etcd.moves import with_etcd
from portico.settings import cluster
from portico.settings.addresses import format_interface, parse_host_address
from portico.settings.facts import Facts
from portico.settings.load_balancing import ClusterServer, LoadBalancing, Mode
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused, errors

Edit = Callable[[Settings, Facts], Settings]


class Change(Model):
    author: str = Field(default="root", max_length=200)
    comment: str = Field(default="", max_length=1000)
    dry_run: bool = False


class Enable(Change):
    """Addresses with mask or length: `203.0.113.12/24`, `10.244.4.19 /255.255.255.0`."""

    internet_dedicated_addresses: list[str] = Field(min_length=1, max_length=16)
    internal_dedicated_addresses: list[str] = Field(default_factory=list, max_length=16)
    internet_virtual_addresses: list[str] | None = Field(default=None, max_length=16)
    internal_virtual_addresses: list[str] | None = Field(default=None, max_length=16)
    mode: Mode = "unicast"
    store: Literal["sqlite", "etcd"] = Field(default="sqlite", description="what decides about revisions of settings")


class ChangeMode(Change):
    mode: Mode


class Add(Change):
    name: str = Field(max_length=63)
    internet_dedicated_addresses: list[str] = Field(default_factory=list, max_length=16)
    internal_dedicated_addresses: list[str] = Field(default_factory=list, max_length=16)
    internet_interface: str | None = Field(default=None, max_length=15)
    internal_interface: str | None = Field(default=None, max_length=15)
    weight: int = Field(default=50, ge=0, le=100)
    priority: int | None = Field(default=None, ge=1, le=32, description="null: the lowest that is free")


class Remove(Change):
    """`lost` says that the server is gone for good: the others then change settings without its vote."""

    name: str = Field(max_length=63)
    lost: bool = False


class ServerModel(Model):
    name: str
    priority: int
    weight: int
    state: Literal["started", "stopped", "suspended"]
    internet_dedicated_addresses: list[str]
    internal_dedicated_addresses: list[str]
    server_prefix_index: int


class LoadBalancingAnswer(Model):
    """What the settings in force say; `own_name` is the server that answers."""

    own_name: str
    mode: Mode
    internet_virtual_addresses: list[str]
    internal_virtual_addresses: list[str]
    client_addresses: Literal["roaming", "per-server"]
    heartbeat_milliseconds: int
    missed_heartbeats: int
    filter: Literal["automatic", "nftables", "ebpf"]
    port_rules: list[dict[str, Any]]
    servers: list[ServerModel]


def router(
    agent_of: Callable[..., Agent],
    faults: dict[int | str, dict[str, Any]],
    answer: Callable[[Agent, Outcome], OutcomeAnswer],
) -> APIRouter:
    """The routes below /v1/load-balancing."""
    routes = APIRouter(prefix="/v1/load-balancing", responses=faults)
    the_agent = Depends(agent_of)

    async def change(
        agent: Agent,
        body: Change,
        edit: Edit,
        comment: str,
        lost: frozenset[str] = frozenset(),
        *,
        advice: bool = False,
    ) -> OutcomeAnswer:
        store = await asyncio.to_thread(agent.store)
        latest = await asyncio.to_thread(store.latest)
        if latest is None:
            raise NotFound(
                "There are no settings", why="nothing was installed yet", resolution="portico server install"
            )
        facts = await asyncio.to_thread(agent.machine.facts)
        settings = edit(latest.settings, facts)
        begins = settings.store.kind == "etcd" and latest.settings.load_balancing is None
        if begins and not body.dry_run:
            outcome = await agent.peers.moves.enable(
                settings, expected=latest.number, author=body.author, comment=body.comment or comment
            )
        else:
            outcome = await agent.change(
                settings,
                expected=latest.number,
                author=body.author,
                comment=body.comment or comment,
                dry_run=body.dry_run,
                lost=lost,
            )
        answered = answer(agent, outcome)
        if advice:
            local = await asyncio.to_thread(agent.machine.localise, settings)
            found = await asyncio.to_thread(advised, local, interface_mac)
            answered.advice = [AdviceModel.model_validate(one.as_dict()) for one in found]
        return answered

    @routes.get("")
    async def show(agent: Agent = the_agent) -> LoadBalancingAnswer:
        """The cluster as the settings in force have it."""
        settings = agent.platform.settings
        balancing = settings.load_balancing if settings is not None else None
        if settings is None or balancing is None:
            raise NotFound(
                "Load balancing is not enabled",
                why="this server serves alone",
                resolution="Enable it: portico lb enable --internet-dedicated-address ADDRESS/LENGTH",
                code="LB_DISABLED",
            )
        return _shown(settings.server.name, balancing)

    @routes.post("/enable")
    async def enable(body: Enable, agent: Agent = the_agent) -> OutcomeAnswer:
        """Makes this server the first of a cluster: its addresses become virtual, it gets dedicated ones."""
        internet = _addresses("internet_dedicated_addresses", body.internet_dedicated_addresses)
        internal = _addresses("internal_dedicated_addresses", body.internal_dedicated_addresses)
        internet_virtual = _optional("internet_virtual_addresses", body.internet_virtual_addresses)
        internal_virtual = _optional("internal_virtual_addresses", body.internal_virtual_addresses)

        def edit(settings: Settings, facts: Facts) -> Settings:
            enabled = cluster.enable(
                settings,
                facts,
                internet_dedicated=internet,
                internal_dedicated=internal,
                internet_virtual=internet_virtual,
                internal_virtual=internal_virtual,
                mode=body.mode,
            )
            return with_etcd(enabled) if body.store == "etcd" else enabled

        return await change(agent, body, edit, "load balancing enabled", advice=True)

    @routes.post("/disable")
    async def disable(body: Change, agent: Agent = the_agent) -> OutcomeAnswer:
        """Makes this server serve alone, with the virtual addresses as its own."""
        return await change(agent, body, cluster.disable, "load balancing disabled")

    @routes.post("/mode")
    async def mode(body: ChangeMode, agent: Agent = the_agent) -> OutcomeAnswer:
        """Changes how one frame reaches every server."""
        edit: Edit = lambda s, _: cluster.set_mode(s, body.mode)  # noqa: E731
        return await change(agent, body, edit, f"mode {body.mode}", advice=True)

    @routes.post("/add")
    async def add(body: Add, agent: Agent = the_agent) -> OutcomeAnswer:
        """Adds a server to the document; it joins when it has its identity and the document."""

        def edit(settings: Settings, _facts: Facts) -> Settings:
            return cluster.add_server(settings, _server(settings, body))

        return await change(agent, body, edit, f"{body.name} added to the cluster")

    @routes.post("/remove")
    async def remove(body: Remove, agent: Agent = the_agent) -> OutcomeAnswer:
        """Takes a server out of the document, also one that does not answer."""
        return await change(
            agent,
            body,
            lambda s, _: cluster.remove_server(s, body.name),
            f"{body.name} removed from the cluster",
            frozenset({body.name}) if body.lost else frozenset(),
        )

    return routes


async def check_addition(agent: Agent, body: Add) -> list[Problem]:
    """What is wrong with the cluster once a server is added; what only the new machine knows is checked when it joins.

    Raises:
        SettingsRefused: it cannot be added as it is described.
        NotFound, Conflict, InvalidInput: of `portico.settings.cluster.add_server`.
    """
    store = await asyncio.to_thread(agent.store)
    latest = await asyncio.to_thread(store.latest)
    if latest is None:
        raise NotFound("There are no settings", why="nothing was installed yet", resolution="portico server install")
    balancing = latest.settings.load_balancing
    if balancing is not None and (there := balancing.server(body.name)) is not None:
        if body.internet_dedicated_addresses or body.internal_dedicated_addresses:
            cluster.add_server(latest.settings, there)  # says that it is there already
        return []
    settings = cluster.add_server(latest.settings, _server(latest.settings, body))
    problems = await agent.check(settings)
    if not (body.internet_dedicated_addresses or body.internal_dedicated_addresses):
        problems = [problem for problem in problems if problem.code != "LB_DIP_MISSING"]  # the machine brings its own
    if errors(problems):
        raise SettingsRefused(f"{body.name} cannot be added", problems)
    return problems


def _addresses(name: str, texts: list[str]) -> list[IPv4Interface | IPv6Interface]:
    found = []
    for text in texts:
        try:
            found.append(parse_host_address(text))
        except ValueError as error:
            raise InvalidInput(
                f"'{text}' cannot be used",
                why=f"{name}: {error}",
                resolution="Write an address with its prefix length or mask: 203.0.113.12/24",
            ) from None
    return found


def _optional(name: str, texts: list[str] | None) -> list[IPv4Interface | IPv6Interface] | None:
    return _addresses(name, texts) if texts is not None else None


def _server(settings: Settings, body: Add) -> ClusterServer:
    try:
        return ClusterServer(
            name=body.name,
            priority=body.priority if body.priority is not None else cluster.free_priority(settings),
            weight=body.weight,
            internet_interface=body.internet_interface,
            internal_interface=body.internal_interface,
            internet_dedicated_addresses=_addresses("internet_dedicated_addresses", body.internet_dedicated_addresses),
            internal_dedicated_addresses=_addresses("internal_dedicated_addresses", body.internal_dedicated_addresses),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(
            f"{body.name} cannot be added",
            why=f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}",
            resolution="Correct it; docs/settings.md lists what each value can be",
        ) from None


def _shown(own_name: str, balancing: LoadBalancing) -> LoadBalancingAnswer:
    data = balancing.model_dump(mode="json")
    return LoadBalancingAnswer(
        own_name=own_name,
        mode=balancing.mode,
        internet_virtual_addresses=[format_interface(vip) for vip in balancing.internet_virtual_addresses],
        internal_virtual_addresses=[format_interface(vip) for vip in balancing.internal_virtual_addresses],
        client_addresses=balancing.client_addresses,
        heartbeat_milliseconds=balancing.heartbeat_milliseconds,
        missed_heartbeats=balancing.missed_heartbeats,
        filter=balancing.filter,
        port_rules=data["port_rules"],
        servers=[
            ServerModel(
                name=server.name,
                priority=server.priority,
                weight=server.weight,
                state=server.state,
                internet_dedicated_addresses=[format_interface(a) for a in server.internet_dedicated_addresses],
                internal_dedicated_addresses=[format_interface(a) for a in server.internal_dedicated_addresses],
                server_prefix_index=server.prefix_index,
            )
            for server in balancing.servers
        ],
    )
