"""The client's policy as text: a .reg file for one computer, a PowerShell script for a GPO or one computer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from portico.windows.registry_pol import Kind, RegistryValue

_TYPES = {
    Kind.SZ: "String",
    Kind.EXPAND_SZ: "ExpandString",
    Kind.BINARY: "Binary",
    Kind.DWORD: "DWord",
    Kind.MULTI_SZ: "MultiString",
    Kind.QWORD: "QWord",
}

_SCRIPT = """\
#Requires -Version 3.0
#Requires -RunAsAdministrator
<#
Writes the settings of DirectAccess clients into the Group Policy object -GpoName, which is made when it does not exist,
or with -Local into the registry of this computer. -WhatIf shows what would be written.
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [string]$GpoName = @NAME@,
    [string]$Domain = @DOMAIN@,
    [switch]$Local
)
Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'

function Set-Value([string]$Key, [string]$Name, [string]$Type, $Value) {
    if (-not $PSCmdlet.ShouldProcess("HKLM\\$Key\\$Name", "Set to $Value")) { return }
    if ($Local) {
        $path = "HKLM:\\$Key"
        if (-not (Test-Path -LiteralPath $path)) { New-Item -Path $path -Force | Out-Null }
        New-ItemProperty -LiteralPath $path -Name $Name -PropertyType $Type -Value $Value -Force | Out-Null
    } else {
        $target = @{ Name = $GpoName; Domain = $Domain; Key = "HKLM\\$Key" }
        Set-GPRegistryValue @target -ValueName $Name -Type $Type -Value $Value | Out-Null
    }
}

if (-not $Local) {
    Import-Module GroupPolicy
    $found = Get-GPO -Name $GpoName -Domain $Domain -ErrorAction SilentlyContinue
    if (-not $found -and $PSCmdlet.ShouldProcess($GpoName, 'New-GPO')) {
        New-GPO -Name $GpoName -Domain $Domain | Out-Null
    }
}

"""


def reg_file(values: Iterable[RegistryValue]) -> str:
    """What `reg import` takes (Registry Editor 5.00); write it as UTF-16LE with a byte order mark."""
    lines = ["Windows Registry Editor Version 5.00", ""]
    for key, group in groupby(values, lambda value: value.key):
        lines.append(rf"[HKEY_LOCAL_MACHINE\{key}]")
        lines += [f'"{_escaped(value.name)}"={_reg_data(value)}' for value in group]
        lines.append("")
    return "\r\n".join(lines)


def reg_bytes(values: Iterable[RegistryValue]) -> bytes:
    """The file as Windows writes it."""
    return b"\xff\xfe" + reg_file(values).encode("utf-16-le")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _reg_data(value: RegistryValue) -> str:
    if value.kind is Kind.DWORD and isinstance(value.data, int):
        return f"dword:{value.data:08x}"
    if value.kind is Kind.SZ and isinstance(value.data, str):
        return f'"{_escaped(value.data)}"'
    octets = ",".join(f"{octet:02x}" for octet in value.encoded())
    return f"hex:{octets}" if value.kind is Kind.BINARY else f"hex({value.kind:x}):{octets}"


def powershell(values: Iterable[RegistryValue], *, name: str, domain: str) -> str:
    """A script that writes the policy into a GPO, or with -Local into the registry of the computer it runs on."""
    head = _SCRIPT.replace("@NAME@", _quoted(name)).replace("@DOMAIN@", _quoted(domain))
    lines = head.splitlines()
    for key, group in groupby(values, lambda value: value.key):
        lines.append(f"$key = {_quoted(key)}")
        lines += [f"Set-Value $key {_quoted(v.name)} {_TYPES[v.kind]} {_literal(v)}" for v in group]
        lines.append("")
    return "\r\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal(value: RegistryValue) -> str:
    match value.data:
        case str(text):
            return _quoted(text)
        case int(number):
            return str(number)
        case bytes(raw):
            return "([byte[]](" + ",".join(map(str, raw)) + "))"
        case texts:
            return "([string[]]@(" + ", ".join(map(_quoted, texts)) + "))"
