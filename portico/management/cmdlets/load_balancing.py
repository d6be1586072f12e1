"""Cmdlets of load balancing: `*-RemoteAccessLoadBalancer`, `*-RemoteAccessLoadBalancerNode`."""

from __future__ import annotations

from portico.errors import NotFound, PorticoError
from portico.management.client.models import LoadBalancing
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.changing import act, change, warn
from portico.management.cmdlets.cmdlet import Context, cmdlet
from portico.management.cmdlets.values import PsObject, Value

_EXTERNAL = "An external load balancer"
_ENTRYPOINT = Parameter("EntrypointName", missing="Multisite")
_PASS = Parameter("PassThru", "switch", help="Give the object as it is afterwards.")
_FORCE = Parameter("Force", "switch", help="Do not ask.")


def load_balancer(context: Context, *, brief: bool = False) -> PsObject:
    """The object RemoteAccessLoadBalancer. Raises NotFound, code LB_DISABLED."""
    found = context.api.load_balancing.show()
    states: dict[str, str | None] = {}
    if not brief:
        try:
            states = context.api.cluster.states()
        except PorticoError as error:
            context.host.warning(f"The states of the servers are not known: {error}")
    return PsObject(
        "RemoteAccessLoadBalancer",
        [
            ("NlbNodeStatus", [_node(server.name, states.get(server.name)) for server in found.servers]),
            ("ThirdPartyLoadBalancer", "Disabled"),
            ("InternetVirtualIPAddress", list(_internet(found))),
            ("InternalVirtualIPAddress", list(_internal(found))),
        ],
        view=("NlbNodeStatus", "ThirdPartyLoadBalancer", "InternetVirtualIPAddress", "InternalVirtualIPAddress"),
    )


def _node(name: str, state: str | None) -> PsObject:
    return PsObject(
        "RemoteAccessLoadBalancerNode",
        [("HostName", name), ("StatusCode", state), ("VpnIPAddressAssignmentSetting", None)],
        text=name,
    )


def _internet(found: LoadBalancing) -> list[str]:
    """A single-NIC server has all its addresses on the internal side; Windows shows them as the Internet's."""
    return found.internet_virtual_addresses or found.internal_virtual_addresses


def _internal(found: LoadBalancing) -> list[str]:
    return found.internal_virtual_addresses if found.internet_virtual_addresses else []


@cmdlet(
    "Get-RemoteAccessLoadBalancer",
    "Shows the servers of the cluster with their states, and the virtual addresses.",
    Parameter("Brief", "switch", help="Without the states of the servers."),
    _ENTRYPOINT,
    example="(Get-RemoteAccessLoadBalancer).NlbNodeStatus | Format-Table HostName, StatusCode",
)
def get_load_balancer(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    return [load_balancer(context, brief=bound.switch("Brief"))]


_ENABLE, _DISABLE, _EXTERNAL_SET = "EnableLoadBalancing", "DisableLoadBalancing", "ThirdPartyLoadBalancer"


@cmdlet(
    "Set-RemoteAccessLoadBalancer",
    "Makes this server the first of a cluster, or ends load balancing.",
    Parameter(
        "InternetDedicatedIPAddress",
        "strings",
        position=0,
        required=True,
        sets=(_ENABLE,),
        help="New addresses with mask or length for the Internet interface.",
    ),
    Parameter("InternalDedicatedIPAddress", "strings", sets=(_ENABLE,), help="The same for the internal interface."),
    Parameter(
        "InternetVirtualIPAddress",
        "strings",
        sets=(_ENABLE,),
        help="Virtual addresses of the Internet side; without it the existing addresses become virtual.",
    ),
    Parameter("InternalVirtualIPAddress", "strings", sets=(_ENABLE,), help="The same for the internal side."),
    Parameter("UseThirdPartyLoadBalancer", "switch", sets=(_ENABLE,), missing=_EXTERNAL),
    Parameter("Disable", "switch", required=True, sets=(_DISABLE,), help="End load balancing."),
    Parameter("Force", "switch", sets=(_DISABLE,), help="Do not ask."),
    Parameter(
        "ThirdPartyLoadBalancer",
        required=True,
        sets=(_EXTERNAL_SET,),
        choices=("Enabled", "Disabled"),
        missing_values={"Enabled": _EXTERNAL},
        help="Disabled: network load balancing, which is in use.",
    ),
    _PASS,
    default_set=_ENABLE,
    changes=True,
    notes="The mode is unicast; change it with `portico lb mode`. -Disable keeps the virtual addresses on the server "
    "that answers.",
    example="Set-RemoteAccessLoadBalancer -InternetDedicatedIPAddress @('10.244.4.19 /255.255.255.0') "
    "-InternetVirtualIPAddress @('10.244.4.21 /255.255.255.0') -Verbose",
)
def set_load_balancer(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.here(bound)
    if bound.parameter_set == _EXTERNAL_SET:
        context.api.load_balancing.show()  # says when there is no cluster
        context.host.verbose("Network load balancing is in use; nothing was changed.")
    elif bound.parameter_set == _DISABLE:
        if not bound.switch("Disable"):
            return []
        outcome = change(
            context,
            bound,
            context.own_name(),
            lambda dry: context.api.load_balancing.disable(dry_run=dry),
            question="Disabling load balancing will disable cluster configuration. Do you want to continue?",
        )
        return [] if outcome is None or not bound.switch("PassThru") else [remote_access_brief(context)]
    else:
        outcome = change(
            context,
            bound,
            context.own_name(),
            lambda dry: context.api.load_balancing.enable(
                internet_dedicated=_addresses(bound, "InternetDedicatedIPAddress") or [],
                internal_dedicated=_addresses(bound, "InternalDedicatedIPAddress") or [],
                internet_virtual=_addresses(bound, "InternetVirtualIPAddress"),
                internal_virtual=_addresses(bound, "InternalVirtualIPAddress"),
                dry_run=dry,
            ),
        )
        if outcome is None:
            return []
    return [load_balancer(context)] if bound.switch("PassThru") and not bound.switch("WhatIf") else []


def _addresses(bound: Bound, name: str) -> list[str] | None:
    """Addresses without the blanks and line breaks that pages put into them; one text may hold several with commas."""
    given: list[str] | None = bound.get(name)
    if given is None:
        return None
    return ["".join(part.split()) for text in given for part in text.split(",")]


def remote_access_brief(context: Context) -> PsObject:
    """What -Disable -PassThru gives: there is no load balancer any more."""
    return PsObject(
        "RemoteAccessLoadBalancer",
        [
            ("NlbNodeStatus", [_node(context.own_name(), None)]),
            ("ThirdPartyLoadBalancer", "Disabled"),
            ("InternetVirtualIPAddress", []),
            ("InternalVirtualIPAddress", []),
        ],
    )


@cmdlet(
    "Add-RemoteAccessLoadBalancerNode",
    "Lets a new server join the cluster: gives the command that is to be run on it.",
    Parameter("RemoteAccessServer", position=0, required=True, help="Name of the new server."),
    Parameter(
        "InternetInterface",
        missing="Choosing the new server's interfaces from another server",
        help="Give it on the new server: portico server join --help",
    ),
    Parameter(
        "InternalInterface",
        missing="Choosing the new server's interfaces from another server",
        help="Give it on the new server: portico server join --help",
    ),
    Parameter("VpnIPAddressRange", "strings", missing="VPN"),
    _ENTRYPOINT,
    _PASS,
    _FORCE,
    changes=True,
    notes="Windows changes the new server from afar with the administrator's domain rights. Here the object that comes "
    "out has a token that works once, for an hour, and the command that joins with it.",
    example="Add-RemoteAccessLoadBalancerNode -RemoteAccessServer da2",
)
def add_node(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    name = short_name(bound.get("RemoteAccessServer"))
    planned = context.api.cluster.join_token(name, dry_run=True)
    warn(context, bound, (f"{problem.what}: {problem.why}" for problem in planned.problems))
    if not act(context, bound, name):
        context.host.information(f"What if: a token with which {name} joins the cluster once would be made.")
        return []
    made = context.api.cluster.join_token(name)
    if bound.switch("Verbose"):
        context.host.verbose(f"Run the command of JoinCommand on {name}; it takes part when its state is Converged.")
    expires = made.expires[:19].replace("T", " ") if made.expires else None
    return [
        PsObject(
            "RemoteAccessLoadBalancerNode",
            [
                ("HostName", name),
                ("StatusCode", "In Progress"),
                ("VpnIPAddressAssignmentSetting", None),
                ("JoinCommand", f"portico server join {made.token}"),
                ("ExpiresUtc", expires),
            ],
            text=name,
        )
    ]


@cmdlet(
    "Remove-RemoteAccessLoadBalancerNode",
    "Takes a server out of the cluster, also one that does not answer.",
    Parameter("RemoteAccessServer", position=0, required=True, help="Name of the server."),
    _ENTRYPOINT,
    _PASS,
    _FORCE,
    changes=True,
    notes="A server that is gone for good and whose vote is missing: `portico lb remove NAME --lost`.",
    example="Remove-RemoteAccessLoadBalancerNode -RemoteAccessServer da2 -Force",
)
def remove_node(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.computer(bound)
    given = bound.get("RemoteAccessServer")
    name = short_name(given)
    known = [server.name for server in context.api.load_balancing.show().servers]
    if name not in known:
        raise NotFound(
            f"Server {given} is not a part of a remote access server cluster",
            why=f"the servers are: {', '.join(known)}",
            resolution="List them: Get-RemoteAccessLoadBalancer",
            code="NOT_IN_CLUSTER",
        )
    outcome = change(
        context,
        bound,
        name,
        lambda dry: context.api.load_balancing.remove(name, dry_run=dry),
        question=f"Server {name} will be removed from the cluster and its Remote Access configuration deleted. "
        "Do you want to continue?",
    )
    return [load_balancer(context)] if outcome is not None and bound.switch("PassThru") else []


def short_name(text: str) -> str:
    """The name of a server without its domain, as the settings have it."""
    return text.strip().lower().split(".")[0]
