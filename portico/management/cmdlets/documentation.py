"""Help texts, and docs/cmdlets.md, written from the table of cmdlets. `python -m` this module prints the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from portico.management.cmdlets.binding import CHANGING, CIM, Parameter
from portico.management.cmdlets.cmdlet import Cmdlet, cmdlets

_HEAD: Final = """# Cmdlets

<!-- Written by: python -m portico.management.cmdlets.documentation > docs/cmdlets.md -->

`portico cmdlet` runs lines in PowerShell's syntax, as they are pasted from a runbook or a web page:

    portico cmdlet "Get-RemoteAccessLoadBalancer | Format-List"
    portico cmdlet --file script.ps1
    portico cmdlet --help-for Set-DAServer

Names, parameters, output objects and the order of their properties are Windows's. A cmdlet becomes a change of the
settings or a request to the server's API: it is verified, planned, applied on all servers and undone on failure like
any other change. `-WhatIf` shows the plan and changes nothing, `-Verbose` shows plan and progress, `-PassThru` gives
the object.

- What Portico does not have is refused by name, with the code `CMDLET_NOT_BUILT`; nothing is ignored silently.
- The first error ends a script (PowerShell goes on); `-ErrorAction Continue` goes on.
- `-ComputerName` takes names and addresses of servers of the cluster. Any server answers for all of them.
- Understood: comments, backticks, several statements, pipelines, strings and here-strings, arrays, hashtables,
  splatting, variables, `$()`, members, comparisons, `[datetime]` and other casts. Refused by name: functions, loops,
  conditions, redirection. A line that begins with a parameter goes on with the command above it.
- Typographic quotes and dashes count as the plain ones, and blanks or line breaks inside an address do not matter.
"""


def help_text(found: Cmdlet) -> str:
    """What `portico cmdlet --help-for NAME` and Get-Help print."""
    lines = [f"{found.name}", f"    {found.synopsis}", "", "SYNTAX"]
    lines += [f"    {line}" for line in _syntax(found)]
    if found.missing:
        lines += ["", "NOT BUILT", f"    {found.missing}"]
    own = [*found.own, *(CHANGING if found.changes else ()), *(CIM[:1] if found.cim else ())]
    if own:
        lines += ["", "PARAMETERS"]
        for parameter in own:
            lines.append(f"    -{parameter.name} <{_type(parameter)}>{_aliases(parameter)}")
            text = _state(parameter) or parameter.help
            if text:
                lines.append(f"        {text}")
    for title, text in (("NOTES", found.notes), ("EXAMPLE", found.example)):
        if text:
            lines += ["", title, f"    {text}"]
    return "\n".join(lines)


def _syntax(found: Cmdlet) -> Iterator[str]:
    names = list(dict.fromkeys(name for parameter in found.own for name in parameter.sets)) or [""]
    for name in names:
        words = [found.name]
        for parameter in found.own:
            if parameter.sets and name not in parameter.sets:
                continue
            text = f"-{parameter.name}" if parameter.position is None else f"[-{parameter.name}]"
            if parameter.type != "switch":
                text += f" <{_type(parameter)}>"
            words.append(text if parameter.required else f"[{text}]")
        words += ["[-WhatIf]", "[-Confirm]"] if found.changes else []
        yield " ".join([*words, "[<CommonParameters>]"])


def _type(parameter: Parameter) -> str:
    return parameter.dotnet.rpartition(".")[2]


def _aliases(parameter: Parameter) -> str:
    return f"  (also {', '.join(f'-{name}' for name in parameter.aliases)})" if parameter.aliases else ""


def _state(parameter: Parameter) -> str:
    """What is not built of it, empty when everything is."""
    if parameter.missing:
        more = f" ({parameter.help})" if parameter.help else ""
        return f"Not built: {parameter.missing}{more}"
    if parameter.missing_values:
        reasons: dict[str, list[str]] = {}
        for value, why in parameter.missing_values.items():
            reasons.setdefault(why, []).append(value)
        missing = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
        more = f"{parameter.help} " if parameter.help else ""
        return f"{more}Not built: {missing}"
    return ""


def page() -> str:
    """docs/cmdlets.md."""
    every = cmdlets()
    remote = [found for found in every if found.cim and not found.missing]
    lines = [_HEAD, "## What can be used\n", "| Cmdlet | Does | Parameters | Not built |", "|---|---|---|---|"]
    for found in remote:
        usable = [f"`-{p.name}`" for p in found.own if not p.missing]
        usable += ["`-WhatIf`", "`-Confirm`"] if found.changes else []
        missing = [f"`-{p.name}`" for p in found.own if p.missing]
        missing += [f"`-{p.name} {value}`" for p in found.own for value in p.missing_values if not p.missing]
        lines.append(f"| `{found.name}` | {found.synopsis} | {', '.join(usable)} | {', '.join(missing)} |")
    lines += [
        "\nAll of them take `-ComputerName` and `-ThrottleLimit`, and the common parameters `-Verbose`, `-Debug`,"
    ]
    lines += ["`-ErrorAction`, `-WarningAction` and `-InformationAction`. `-CimSession` and `-AsJob` are refused.\n"]
    lines += ["## Notes\n"]
    lines += [f"- `{found.name}`: {found.notes}" for found in every if found.notes]
    lines += ["\n## Pipelines\n", "| Cmdlet | Does | Aliases | Parameters |", "|---|---|---|---|"]
    for found in every:
        if not found.cim:
            own = ", ".join(f"`-{p.name}`" for p in found.own)
            aliases = ", ".join(f"`{name}`" for name in found.aliases)
            lines.append(f"| `{found.name}` | {found.synopsis} | {aliases} | {own} |")
    lines += ["\n## Not built\n", "| Cmdlet | Needs |", "|---|---|"]
    lines += [f"| `{found.name}` | {found.missing} |" for found in every if found.missing]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
