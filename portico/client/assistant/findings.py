"""What single checks of the chain find, in words. Pure; `probes` does the asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from portico.client.assistant.nls import Answer
from portico.client.assistant.report import State, Who

NETWORK: Final = "network"
NLS: Final = "network location server"
CORP: Final = "corpConnectivityHost"
ENDPOINTS: Final = "tunnel endpoints"
WEB_PROBE: Final = "web probe"
PROBE: Final = "probe "
"""Followed by the probe as it is written in the settings."""


@dataclass(frozen=True)
class Finding:
    """A check without its time. See `portico.client.assistant.report.Check`."""

    name: str
    state: State
    detail: str = ""
    cause: str = ""
    resolution: str = ""
    who: Who | None = None


def passed(name: str, detail: str = "") -> Finding:
    return Finding(name, State.PASSED, detail)


def skipped(name: str, detail: str) -> Finding:
    return Finding(name, State.SKIPPED, detail)


def running(name: str, detail: str = "") -> Finding:
    return Finding(name, State.RUNNING, detail)


def network(text: str) -> Finding:
    """The network this computer is in; empty for none."""
    if text:
        return passed(NETWORK, text)
    return Finding(
        NETWORK,
        State.FAILED,
        "no interface has a link and an address",
        cause="This computer is in no network",
        resolution="Plug in the cable, or choose a wireless network",
        who=Who.USER,
    )


def location(answer: Answer | None, *, inside: bool) -> Finding:
    """The location server's answer. Outside it is right that there is none."""
    if answer is None:
        return running(NLS)
    if answer.proven:
        return passed(NLS, f"{answer.detail}: this computer is inside")
    if inside:
        return running(NLS, f"asked again: {answer.detail}")
    if answer.foreign:
        return Finding(
            NLS,
            State.FAILED,
            answer.detail,
            cause="Somebody answers for the network location server who cannot prove to be it: this network leads "
            "names astray (a page to log in to), or the server's certificate is wrong",
            resolution="Open a web page to log in to the network; in the office, have the network location server's "
            "certificate repaired (portico server status)",
            who=Who.NETWORK,
        )
    if answer.known:
        return Finding(
            NLS,
            State.FAILED,
            answer.detail,
            cause="This network knows the network location server's name, as the intranet does, and the server gives "
            "no answer: computers inside take themselves to be outside",
            resolution="Repair it at once; on each server: portico server status",
            who=Who.ADMINISTRATOR,
        )
    return passed(NLS, f"{answer.detail}: this computer is outside")


def technology(name: str, obstacle: str | None, *, built: bool) -> Finding:
    """One way in. `obstacle`: see `technologies.Way`."""
    if not built:
        return skipped(name, obstacle or "not built")
    if obstacle is None:
        return passed(name, "it carries packets")
    if not obstacle:
        return running(name)
    return Finding(
        name,
        State.FAILED,
        obstacle,
        cause="The Remote Access server cannot be reached in this way",
        resolution="Try another network; if others have the same trouble, the server or its name needs attention",
        who=Who.ADMINISTRATOR,
    )


def portal(name: str, detail: str) -> Finding:
    """A way in at whose other end somebody else answers."""
    return Finding(
        name,
        State.FAILED,
        detail,
        cause="Something in this network answers in the server's place: a page to log in to, or a device that opens "
        "encrypted connections",
        resolution="Open a web page to log in to the network, or use another network",
        who=Who.USER,
    )


def corp(expected: str, why: str) -> Finding:
    """corpConnectivityHost; `why` is empty when it is right."""
    if not why:
        return passed(CORP, expected)
    return Finding(
        CORP,
        State.FAILED,
        why,
        cause="Names of the intranet cannot be relied on: the record is missing or wrong, or its DNS does not answer",
        resolution="On a server: portico dns check",
        who=Who.ADMINISTRATOR,
    )


def endpoints(silent: tuple[str, ...], total: int) -> Finding:
    """The ends of the tunnel; `silent`: why those that did not answer a ping count as silent."""
    if not silent:
        return passed(ENDPOINTS, f"{total} of {total} answer")
    if len(silent) < total:
        return passed(ENDPOINTS, f"{total - len(silent)} of {total} answer; {'; '.join(silent)}")
    return Finding(
        ENDPOINTS,
        State.FAILED,
        "; ".join(silent),
        cause="The connection stands and the server does not answer through it",
        resolution="portico client redial; on the server: portico server status",
        who=Who.ADMINISTRATOR,
    )


def web_probe(why: str) -> Finding:
    """The web probe; `why` is empty when it answers 200."""
    if not why:
        return passed(WEB_PROBE)
    return Finding(
        WEB_PROBE,
        State.FAILED,
        why,
        cause="The page that every client fetches does not come: the server says that it is unavailable, its record "
        "is missing, or its port is blocked on the way",
        resolution="On a server: portico dns check, portico server status; look whether a firewall blocks the port",
        who=Who.ADMINISTRATOR,
    )


def probe(text: str, why: str) -> Finding:
    """A configured probe; `why` is empty when it succeeds."""
    if not why:
        return passed(f"{PROBE}{text}")
    return Finding(
        f"{PROBE}{text}",
        State.FAILED,
        why,
        cause="The way in works, and this one resource does not answer",
        resolution="Have the resource looked at; the probes are those of connectivity_assistant.probes",
        who=Who.ADMINISTRATOR,
    )
