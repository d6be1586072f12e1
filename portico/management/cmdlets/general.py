"""Cmdlets of PowerShell itself that scripts about Remote Access use."""

from __future__ import annotations

from datetime import datetime

from portico.management.cmdlets import values
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.cmdlet import Context, cmdlet, cmdlets, resolve
from portico.management.cmdlets.errors import CmdletError
from portico.management.cmdlets.values import PsObject, Value


@cmdlet(
    "Get-Date",
    "Gives a point in time, the present one by default.",
    Parameter("Date", "datetime", position=0, help="ISO 8601, or month/day/year."),
    Parameter("Format", help="o: ISO 8601."),
    cim=False,
)
def get_date(_context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    found: datetime = bound.get("Date") or datetime.now().astimezone()
    if "Format" not in bound:
        return [found]
    if bound.get("Format") not in ("o", "s", "yyyy-MM-dd"):
        raise ValueError(f"The format '{bound.get('Format')}' is not supported here")
    return [
        {"o": found.isoformat(), "s": found.isoformat()[:19], "yyyy-MM-dd": f"{found:%Y-%m-%d}"}[bound.get("Format")]
    ]


@cmdlet(
    "Write-Output",
    "Gives its arguments.",
    Parameter("InputObject", "object", position=0, required=True),
    aliases=("echo", "write"),
    cim=False,
)
def write_output(_context: Context, bound: Bound, flowing: list[Value] | None) -> list[Value]:
    return flowing if flowing is not None else values.as_list(bound.get("InputObject"))


@cmdlet(
    "Write-Host",
    "Shows text that is no result.",
    Parameter("Object", "object", position=0),
    Parameter("ForegroundColor", help="Taken; nothing is coloured."),
    cim=False,
)
def write_host(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.host.information(values.text_of(bound.get("Object")))
    return []


@cmdlet(
    "Import-Module",
    "Taken for RemoteAccess, whose cmdlets are there already.",
    Parameter("Name", position=0, required=True),
    aliases=("ipmo",),
    cim=False,
)
def import_module(_context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    name = bound.get("Name")
    if name.lower() not in ("remoteaccess", "networkloadbalancingclusters"):
        raise CmdletError(
            f"The specified module '{name}' was not loaded because no valid module file was found",
            code="CMDLET_NOT_FOUND",
            error_id="Modules_ModuleNotFound",
            place=bound.place,
        )
    return []


@cmdlet(
    "Get-Command",
    "Lists the cmdlets.",
    Parameter("Name", position=0, help="With * and ?."),
    Parameter("Module"),
    aliases=("gcm",),
    cim=False,
)
def get_command(_context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    pattern = bound.get("Name", "*")
    return [
        PsObject(
            "CmdletInfo",
            [
                ("CommandType", "Cmdlet"),
                ("Name", found.name),
                ("Supported", not found.missing),
                ("Definition", found.synopsis),
            ],
        )
        for found in cmdlets()
        if values.wildcard(pattern, found.name)
    ]


@cmdlet(
    "Get-Help",
    "Shows what a cmdlet does and what it takes.",
    Parameter("Name", position=0, required=True),
    *(Parameter(name, "switch", help="Taken; everything is shown.") for name in ("Full", "Detailed", "Examples")),
    aliases=("help", "man"),
    cim=False,
)
def get_help(_context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    from portico.management.cmdlets.documentation import help_text

    found = resolve(bound.get("Name"))
    if found is None:
        raise CmdletError(
            f"Get-Help could not find {bound.get('Name')} in a help file in this session",
            code="CMDLET_NOT_FOUND",
            error_id="HelpNotFound",
            place=bound.place,
            resolution="List the cmdlets: Get-Command",
        )
    return [help_text(found)]
