"""The status in the field's words, and when the network counts as changed."""

from __future__ import annotations

import asyncio
import time

import pytest

from portico.client.network import SleepDetector, Watch
from portico.client.resolved import commands, is_in_charge
from portico.client.status import (
    ClientStatus,
    Facts,
    Failure,
    Status,
    Substatus,
    derive,
    interface_text,
)

REFUSED = Failure(0x274D, "connection refused", 1.0)
NO_HOST = Failure(0x2AF9, "no such host", 1.0)
NO_CERTIFICATE = Failure(0x103, "no usable certificate", 1.0)


@pytest.mark.parametrize(
    ("facts", "status", "substatus", "text"),
    [
        (Facts(False, True), Status.NOT_ENROLLED, Substatus.NONE, "Disabled"),
        (Facts(True, False), Status.DISCONNECTED, Substatus.NONE, "Disabled"),
        (Facts(True, True), Status.CONNECTING, Substatus.NONE, "Connecting to the IPHTTPS server"),
        (
            Facts(True, True, "link_up", ("fd00::5",)),
            Status.CONNECTED_REMOTELY,
            Substatus.NONE,
            "IPHTTPS interface active",
        ),
        (Facts(True, True, "link_up"), Status.CONNECTING, Substatus.NONE, "IPHTTPS interface active"),
        (
            Facts(True, True, "link_down", reachable=False, failure=REFUSED),
            Status.ACTIONABLE_ERROR,
            Substatus.INTERNET_CONNECTIVITY_DOWN,
            "Failed to connect to the IPHTTPS server. Waiting to reconnect",
        ),
        (
            Facts(True, True, "link_down", reachable=True, failure=REFUSED),
            Status.ERROR,
            Substatus.COULD_NOT_CONTACT_SERVER,
            "Failed to connect to the IPHTTPS server. Waiting to reconnect",
        ),
        (
            Facts(True, True, "link_down", failure=NO_HOST),
            Status.ERROR,
            Substatus.NAME_RESOLUTION_FAILURE,
            "Failed to connect to the IPHTTPS server. Waiting to reconnect",
        ),
        (
            Facts(True, True, "link_down", failure=NO_CERTIFICATE),
            Status.ERROR,
            Substatus.AUTHENTICATION_FAILURE,
            "No usable certificate found",
        ),
    ],
)
def test_status_names_what_is_wrong(facts: Facts, status: Status, substatus: Substatus, text: str) -> None:
    assert derive(facts) == (status, substatus)
    assert interface_text(facts) == text


def test_the_code_is_written_as_the_field_writes_it() -> None:
    shown = ClientStatus(Status.ERROR, Substatus.NONE, "None", "", "link_down", "connect", last_error=REFUSED).as_dict()
    assert shown["last_error"]["hex"] == "0x274D"


def test_sleep_is_the_difference_between_the_clocks() -> None:
    detector = SleepDetector(100.0, 50.0)
    assert detector.slept(101.0, 51.0) == 0
    assert detector.slept(3702.0, 52.0) == 3600.0
    assert detector.slept(3703.0, 53.0) == 0


def test_a_computer_that_wakes_looks_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = 0.0
    real = time.clock_gettime

    def clock(which: int) -> float:
        return real(which) + (slept if which == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", clock)

    async def scenario() -> list[str]:
        nonlocal slept
        reasons: list[str] = []
        woken = asyncio.Event()

        def changed(reason: str) -> None:
            reasons.append(reason)
            woken.set()

        watching = asyncio.create_task(Watch(list, changed, lambda: None, interval=0.01).run())
        await asyncio.sleep(0.05)
        assert reasons == []
        slept = 3600.0
        async with asyncio.timeout(10.0):
            await woken.wait()
        watching.cancel()
        return reasons

    assert asyncio.run(scenario()) == ["the computer slept for 3600 s"]


def test_systemd_resolved_gets_the_namespaces_and_nothing_else() -> None:
    told = commands("portico-iphttps", "127.0.0.1", [".corp.example.net", "host.example.org"], "corp.example.net")
    assert ["dns", "portico-iphttps", "127.0.0.1"] in told
    assert ["domain", "portico-iphttps", "corp.example.net", "~host.example.org"] in told
    assert ["default-route", "portico-iphttps", "no"] in told


def test_systemd_resolved_is_in_charge_only_where_it_runs_and_nobody_else_is_asked() -> None:
    assert not is_in_charge(["127.0.0.53", "192.0.2.1"])
    assert not is_in_charge([])
