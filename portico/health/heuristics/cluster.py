"""High availability: are the other servers there, and is this one of use to them."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState
from portico.versions import side_by_side

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
HIGH_AVAILABILITY: Final = Component.HIGH_AVAILABILITY

CONVERGING_TOO_LONG: Final = 30.0
"""Seconds; convergence takes less than one."""
WITNESS_SILENCE: Final = 15.0
"""Seconds; it asks each second."""
CLOCKS: Final = 5.0
"""Seconds that clocks may differ; certificates and tokens are judged by them."""

_CONDITIONS: Final = {
    "mute": "others do not hear it",
    "cut": "it is not heard on a network that carries clients: a cable or a switch",
    "unplugged": "a network card that carries clients has no carrier: a cable, or the port of the switch",
    "deaf": "it sees far fewer packets for the virtual addresses than the others: the switch does not send them there",
    "unhealthy": "its gateway or its packet filter does not work",
    "stalled": "it did not run for longer than its lease: the machine is overloaded or was paused",
    "refused": "another server has its priority, or its settings differ from the others'",
}

GONE = CATALOGUE.add(
    "SERVER_GONE",
    HIGH_AVAILABILITY,
    ERROR,
    shared=True,
    what="The server {about} is not there",
    cause="neither its heartbeats nor its channel are heard",
    resolution="Look at the machine and its network; for good: portico lb remove {about}",
)
NOT_HEARD = CATALOGUE.add(
    "SERVER_NOT_HEARD",
    HIGH_AVAILABILITY,
    ERROR,
    shared=True,
    what="The server {about} takes no part in load balancing",
    cause="its agent answers, but its heartbeats are not heard",
    resolution="On it: portico cluster status; systemctl status portico-balancer; UDP port 2504 and the frames of "
    "heartbeats must pass between the servers",
)
MISMATCH = CATALOGUE.add(
    "CERTIFICATE_MISMATCH",
    HIGH_AVAILABILITY,
    ERROR,
    what="This server is stopped: it missed a change of certificates",
    cause="{why}",
    resolution="{resolution}",
)
NO_CHANNEL = CATALOGUE.add(
    "SERVER_CHANNEL_SILENT",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The server {about} cannot be managed from here",
    cause="its heartbeats are heard, but its agent does not answer on TCP port 2505",
    resolution="On it: portico server status; let TCP port 2505 pass between the internal dedicated addresses",
)
CONDITION = CATALOGUE.add(
    "SERVER_CANNOT_SERVE",
    HIGH_AVAILABILITY,
    ERROR,
    shared=True,
    what="The server {about} cannot take clients",
    cause="{conditions}",
    resolution="On it: portico cluster status, portico health",
)
OUT = CATALOGUE.add(
    "SERVER_TAKEN_OUT",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The server {about} takes no clients",
    cause="it is {state}",
    resolution="When the work on it is done: portico cluster start {about} (after a suspension: resume, then start)",
)
ONE_PATH = CATALOGUE.add(
    "SERVER_ON_ONE_PATH",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The server {about} is heard on one network only",
    cause="heard on {paths}; when that fails, it is gone",
    resolution="Look at the cable and the switch of its other interface, and that heartbeats pass there",
)
ALONE = CATALOGUE.add(
    "NO_REDUNDANCY",
    HIGH_AVAILABILITY,
    ERROR,
    shared=True,
    what="Only one server is left",
    cause="of {count} servers, {about} alone takes clients",
    resolution="Bring the others back: portico cluster status",
)
QUORUM = CATALOGUE.add(
    "NO_QUORUM",
    HIGH_AVAILABILITY,
    ERROR,
    shared=True,
    what="Settings cannot be changed and computers cannot be enrolled",
    cause="most servers of the cluster cannot be reached",
    resolution="Bring them back; for good: portico lb remove NAME --lost",
)
CONVERGING = CATALOGUE.add(
    "NOT_CONVERGED",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The servers do not agree who takes which clients",
    cause="for {seconds:.0f} s",
    resolution="See what they say: portico cluster status, on each of them",
)
BALANCER = CATALOGUE.add(
    "BALANCER_TROUBLE",
    HIGH_AVAILABILITY,
    ERROR,
    what="This server takes no part in load balancing",
    cause="{why}",
    resolution="Look at it: systemctl status portico-balancer; systemctl restart portico-server starts all",
)
CHANNEL = CATALOGUE.add(
    "CHANNEL_TROUBLE",
    HIGH_AVAILABILITY,
    ERROR,
    what="This server does not speak with the others",
    cause="{why}",
    resolution="Look at the log; TCP port 2505 of its internal dedicated address must be free",
)
VERSIONS = CATALOGUE.add(
    "VERSIONS_DIFFER",
    HIGH_AVAILABILITY,
    WARNING,
    worse=ERROR,
    shared=True,
    what="The servers run different versions of Portico",
    cause="{versions}",
    resolution="Finish the upgrade, the same version on every server: portico cluster upgrade shows what is next",
)
CLOCK = CATALOGUE.add(
    "CLOCKS_DIFFER",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The clock of {about} is wrong, or this server's is",
    cause="they differ by {seconds:.0f} s",
    resolution="Let the servers have the time from one source: timedatectl, chronyc tracking",
)
WITNESS = CATALOGUE.add(
    "WITNESS_SILENT",
    HIGH_AVAILABILITY,
    WARNING,
    shared=True,
    what="The witness {about} is silent",
    cause="it has not asked for {seconds:.0f} s; without it settings cannot be changed while a server is missing",
    resolution="On it: portico witness status; TCP ports 2379, 2380 and 2505 must pass between it and the servers. If "
    "it does not come back: portico cluster store witness remove",
)
MEMBERS_UNKNOWN = CATALOGUE.add(
    "CLUSTER_UNKNOWN",
    HIGH_AVAILABILITY,
    UNKNOWN,
    what="The state of the cluster is not known here",
    cause="this server's balancer does not answer",
    resolution="Look at it: systemctl status portico-balancer",
)

_TAKING: Final = frozenset({"Converged", "Default", "Converging"})
_OUT: Final = frozenset({"Stopped", "Suspended", "Draining"})


@heuristic(HIGH_AVAILABILITY)
def takes_part(seen: Observations) -> Findings:
    """This server's own part: its balancer and its channel."""
    cluster = seen.cluster
    if cluster is None:
        return None
    found = []
    balancer = seen.process("balancer")
    if balancer is not None and balancer.wanted and balancer.state != "running":
        reason = f": {balancer.reason}" if balancer.reason else ""
        found.append(BALANCER.finding(why=f"the balancer process is {balancer.state}{reason}"))
    elif cluster.balancer_problem:
        found.append(BALANCER.finding(why=cluster.balancer_problem))
    elif cluster.members is None:
        found.append(MEMBERS_UNKNOWN.finding())
    if (trouble := seen.warnings.get("certificate match")) is not None:
        found.append(MISMATCH.finding(why=trouble.why, resolution=trouble.resolution))
    if cluster.channel_problem:
        found.append(CHANNEL.finding(why=cluster.channel_problem))
    if not cluster.quorum:
        found.append(QUORUM.finding())
    if cluster.witness_silent is not None and cluster.witness_silent > WITNESS_SILENCE:
        found.append(WITNESS.finding(cluster.witness, seconds=cluster.witness_silent))
    return found


@heuristic(HIGH_AVAILABILITY)
def others_are_there(seen: Observations) -> Findings:
    """Every server by two signs: its heartbeats, and its agent's answers."""
    cluster = seen.cluster
    if cluster is None:
        return None
    reachable = {neighbour.name: neighbour.reachable for neighbour in cluster.neighbours}
    if cluster.members is None:
        return [NO_CHANNEL.finding(name) for name, there in reachable.items() if not there]
    found = []
    for member in cluster.members:
        if member.name == cluster.own:
            continue
        answers = reachable.get(member.name, False)
        if member.state is None:
            found.append((NOT_HEARD if answers else GONE).finding(member.name))
        elif not answers:
            found.append(NO_CHANNEL.finding(member.name))
    taking = [member.name for member in cluster.members if member.state in _TAKING and not member.conditions]
    if len(cluster.members) > 1 and len(taking) == 1:
        found.append(ALONE.finding(taking[0], count=len(cluster.members)))
    return found


@heuristic(HIGH_AVAILABILITY)
def everybody_takes_clients(seen: Observations) -> Findings:
    """Servers that are there and take none: because somebody said so, or because they cannot."""
    cluster = seen.cluster
    if cluster is None or cluster.members is None:
        return None if cluster is None else []
    found = []
    paths = max((len(member.paths) for member in cluster.members), default=0)
    for member in cluster.members:
        if member.state is None:
            continue
        if member.conditions:
            words = ", ".join(_CONDITIONS.get(name, name) for name in member.conditions)
            found.append(CONDITION.finding(member.name, conditions=words))
        elif member.state in _OUT:
            found.append(OUT.finding(member.name, state=member.state))
        if member.name != cluster.own and 0 < len(member.paths) < paths:
            found.append(ONE_PATH.finding(member.name, paths=", ".join(member.paths)))
    if cluster.converging_for > CONVERGING_TOO_LONG:
        found.append(CONVERGING.finding(seconds=cluster.converging_for))
    return found


@heuristic(HIGH_AVAILABILITY)
def servers_are_alike(seen: Observations) -> Findings:
    """Versions and clocks. Settings in common are a matter of the component Server."""
    cluster = seen.cluster
    if cluster is None:
        return None
    found = []
    versions = {n.name: n.version for n in cluster.neighbours if n.reachable and n.version}
    versions[cluster.own] = seen.version
    if len(set(versions.values())) > 1:
        words = ", ".join(f"{name} {text}" for name, text in sorted(versions.items()))
        apart = any(not side_by_side(text, seen.version) for text in versions.values())
        found.append(VERSIONS.finding(worse=apart, versions=words))
    for neighbour in cluster.neighbours:
        if neighbour.clock_ahead is not None and abs(neighbour.clock_ahead) > CLOCKS:
            found.append(CLOCK.finding(neighbour.name, seconds=abs(neighbour.clock_ahead)))
    return found
