"""Cmdlets of accounting: the inbox store of each server."""

from __future__ import annotations

from typing import Any

from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.changing import act, settings_change
from portico.management.cmdlets.cmdlet import Context, cmdlet
from portico.management.cmdlets.settings_data import enabled, put
from portico.management.cmdlets.values import PsObject, Value, from_epoch

_PASS = Parameter("PassThru", "switch", help="Give the object as it is afterwards.")
_RADIUS = "RADIUS accounting"


def _inbox(context: Context, prefix: str = "") -> dict[str, Value]:
    found = context.api.accounting.status()
    whole = found.used_bytes + found.free_bytes
    used = 100 * found.used_bytes / whole if whole else 0.0
    if found.trouble is not None:
        context.host.warning(f"The store cannot be used: {found.trouble}")
    return {
        "InboxAccountingStatus": enabled(found.enabled),
        f"{prefix}StoreLimit": found.limit,
        f"{prefix}StoreUsedBytes": found.used_bytes,
        f"{prefix}StoreUsedBytesInPercentage": round(used, 7),
        f"{prefix}StoreFreeBytes": found.free_bytes,
        f"{prefix}StoreFreeBytesInPercentage": round(100 - used, 7) if whole else 0.0,
        f"{prefix}StoreFirstRecordDate": from_epoch(found.first_record),
        f"{prefix}StoreLastRecordDate": from_epoch(found.last_record),
    }


def _accounting(context: Context) -> PsObject:
    radius = {"RadiusAccountingStatus": "Disabled", "RemoteRadiusServerList": []}
    return PsObject("RemoteAccessAccounting", {**radius, **_inbox(context, "Inbox")})


def _store(context: Context) -> PsObject:
    return PsObject("RemoteAccessInboxAccounting", _inbox(context))


@cmdlet("Get-RemoteAccessAccounting", "Shows whether sessions are written down, and how large the store is.")
def get_accounting(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.here(bound)
    return [_accounting(context)]


@cmdlet(
    "Set-RemoteAccessAccounting",
    "Begins or ends writing sessions down, on all servers.",
    Parameter(
        "EnableAccountingType",
        position=0,
        required=True,
        sets=("Enable",),
        choices=("Inbox", "ExternalRadius", "Windows"),
        missing_values={"ExternalRadius": _RADIUS, "Windows": _RADIUS},
        help="Inbox.",
    ),
    Parameter(
        "DisableAccountingType",
        required=True,
        sets=("Disable",),
        choices=("Inbox", "ExternalRadius", "Windows"),
        missing_values={"ExternalRadius": _RADIUS, "Windows": _RADIUS},
        help="Inbox.",
    ),
    *(
        Parameter(name, sets=("Enable",), missing=_RADIUS)
        for name in ("RadiusServer", "SharedSecret", "RadiusPort", "RadiusScore", "RadiusTimeout", "AccountingOnOffMsg")
    ),
    _PASS,
    default_set="Enable",
    changes=True,
    example="Set-RemoteAccessAccounting -EnableAccountingType Inbox -PassThru",
)
def set_accounting(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    state = "enabled" if bound.parameter_set == "Enable" else "disabled"

    def edit(data: dict[str, Any]) -> None:
        put(data, "accounting.inbox", state)

    outcome = settings_change(context, bound, edit, target=f"accounting.inbox ({state})")
    return [_accounting(context)] if outcome is not None and bound.switch("PassThru") else []


@cmdlet(
    "Set-RemoteAccessInboxAccountingStore",
    "Says how long ended sessions are kept.",
    Parameter("StoreLimit", position=0, required=True, help="Days, weeks, months or years: 100d, 3w, 12m, 2y."),
    _PASS,
    changes=True,
    notes="On Windows each server has a limit of its own; here it is one setting of the cluster.",
)
def set_store(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    limit = bound.get("StoreLimit")

    def edit(data: dict[str, Any]) -> None:
        put(data, "accounting.store_limit", limit)

    outcome = settings_change(context, bound, edit, target=f"accounting.store_limit ({limit})")
    return [_store(context)] if outcome is not None and bound.switch("PassThru") else []


@cmdlet("Get-RemoteAccessInboxAccountingStore", "Shows the store of the server that answers.")
def get_store(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.here(bound)
    return [_store(context)]


@cmdlet(
    "Clear-RemoteAccessInboxAccountingStore",
    "Deletes ended sessions from the store of the server that answers.",
    Parameter("StartDateTime", "datetime", position=0, help="Only sessions that existed after it."),
    Parameter("EndDateTime", "datetime", position=1, help="Only sessions that existed before it."),
    _PASS,
    Parameter("Force", "switch", help="Do not ask."),
    changes=True,
)
def clear_store(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.here(bound)
    start, end = bound.get("StartDateTime"), bound.get("EndDateTime")
    begin = start.timestamp() if start is not None else None
    finish = end.timestamp() if end is not None else None
    count = context.api.accounting.clear(start=begin, end=finish, dry_run=True)
    question = (
        "Emptying the store will delete the accounting data in accordance with the specified settings "
        f"({count} sessions). Do you want to continue?"
    )
    if not act(context, bound, f"{count} sessions", question=question):
        return []
    count = context.api.accounting.clear(start=begin, end=finish)
    if bound.switch("Verbose"):
        context.host.verbose(f"{count} sessions were deleted.")
    return [_store(context)] if bound.switch("PassThru") else []
