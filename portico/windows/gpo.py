"""A Group Policy backup folder, as `Import-GPO` and the Group Policy console read it. Pure: names and contents.

manifest.xml
{BACKUP-ID}/Backup.xml, bkupInfo.xml, gpreport.xml
{BACKUP-ID}/DomainSysvol/GPO/Machine/registry.pol, DomainSysvol/GPO/User
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from xml.sax.saxutils import escape

from portico.windows.registry_pol import RegistryValue, pack

DEFAULT_NAME: Final = "DirectAccess Client Settings"

_OPERATIONS: Final = "http://www.microsoft.com/GroupPolicy/GPOOperations"
_REGISTRY: Final = "{35378EAC-683F-11D2-A89A-00C04FBBCFA2}"
_REGISTRY_TOOL: Final = "{D02B1F72-3407-48AE-BA88-E8213C6761F1}"
# The client-side extension that reads the IPv6 transition policy.
_TRANSITION: Final = "{CDEAFC3D-948D-49DD-AB12-E578BA4AF7AA}"


def backup_id(domain: str, name: str) -> str:
    """The backup's GUID: the same deployment and name give the same folder, so that a newer export replaces it."""
    return "{" + str(uuid.uuid5(uuid.NAMESPACE_DNS, f"backup.{name}.{domain}")).upper() + "}"


def backup_files(
    values: Sequence[RegistryValue], *, domain: str, name: str = DEFAULT_NAME, now: datetime
) -> dict[str, bytes]:
    """Relative path to content; a path that ends with a slash is an empty folder."""
    backup = backup_id(domain, name)
    policy = "{" + str(uuid.uuid5(uuid.NAMESPACE_DNS, f"gpo.{name}.{domain}")).upper() + "}"
    instance = _instance(backup, policy, domain, name, now)
    inside = f"{backup}/DomainSysvol/GPO"
    return {
        "manifest.xml": _document(
            f'<Backups xmlns="{_OPERATIONS}/Manifest" xmlns:mfst="{_OPERATIONS}/Manifest" mfst:version="1.0">'
            f"{instance}</Backups>"
        ),
        f"{backup}/bkupInfo.xml": _document(
            instance.replace("<BackupInst>", f'<BackupInst xmlns="{_OPERATIONS}/Manifest">')
        ),
        f"{backup}/Backup.xml": _document(_backup(policy, domain, name)),
        f"{backup}/gpreport.xml": _document(_report(values, policy, domain, name, now)),
        f"{inside}/Machine/registry.pol": pack(values),
        f"{inside}/User/": b"",
    }


def _document(body: str) -> bytes:
    return ('<?xml version="1.0" encoding="utf-8"?>\r\n' + body + "\r\n").encode()


def _data(text: str) -> str:
    return "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"


def _instance(backup: str, policy: str, domain: str, name: str, now: datetime) -> str:
    fields = {
        "GPOGuid": policy,
        "GPODomain": domain,
        "GPODomainGuid": "{" + str(uuid.uuid5(uuid.NAMESPACE_DNS, domain)) + "}",
        "GPODomainController": domain,
        "BackupTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "ID": backup,
        "Comment": "",
        "GPODisplayName": name,
    }
    return "<BackupInst>" + "".join(f"<{key}>{_data(text)}</{key}>" for key, text in fields.items()) + "</BackupInst>"


def _backup(policy: str, domain: str, name: str) -> str:
    extensions = f"[{_REGISTRY}{_REGISTRY_TOOL}][{_TRANSITION}{_REGISTRY_TOOL}]"
    source = rf"\\{domain}\sysvol\{domain}\Policies\{policy}\Machine\registry.pol"
    return f"""<GroupPolicyBackupScheme bkp:version="2.0" bkp:type="GroupPolicyBackupTemplate"
    xmlns:bkp="{_OPERATIONS}" xmlns="{_OPERATIONS}">
  <GroupPolicyObject>
    <SecurityGroups/>
    <FilePaths/>
    <GroupPolicyCoreSettings>
      <ID>{_data(policy)}</ID>
      <Domain>{_data(domain)}</Domain>
      <SecurityDescriptor/>
      <DisplayName>{_data(name)}</DisplayName>
      <Options>{_data("0")}</Options>
      <UserVersionNumber>{_data("0")}</UserVersionNumber>
      <MachineVersionNumber>{_data("65537")}</MachineVersionNumber>
      <MachineExtensionGuids>{_data(extensions)}</MachineExtensionGuids>
      <UserExtensionGuids/>
      <WMIFilter/>
    </GroupPolicyCoreSettings>
    <GroupPolicyExtension bkp:ID="{_REGISTRY}" bkp:DescName="Registry">
      <FSObjectFile bkp:Path="%GPO_MACH_FSPATH%\\registry.pol" bkp:SourceExpandedPath="{escape(source)}"
          bkp:Location="DomainSysvol\\GPO\\Machine\\registry.pol"/>
    </GroupPolicyExtension>
  </GroupPolicyObject>
</GroupPolicyBackupScheme>"""


def _report(values: Sequence[RegistryValue], policy: str, domain: str, name: str, now: datetime) -> str:
    types = "http://www.microsoft.com/GroupPolicy/Types"
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    settings = "".join(
        "<q1:RegistrySetting>"
        f"<q1:KeyPath>{escape(value.key)}</q1:KeyPath><q1:AdmSetting>false</q1:AdmSetting>"
        f"<q1:Value><q1:Name>{escape(value.name)}</q1:Name><q1:{tag}>{escape(shown)}</q1:{tag}></q1:Value>"
        "</q1:RegistrySetting>"
        for value in values
        for tag, shown in (_shown(value),)
    )
    return f"""<GPO xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xmlns="http://www.microsoft.com/GroupPolicy/Settings">
  <Identifier>
    <Identifier xmlns="{types}">{policy}</Identifier>
    <Domain xmlns="{types}">{escape(domain)}</Domain>
  </Identifier>
  <Name>{escape(name)}</Name>
  <CreatedTime>{time}</CreatedTime>
  <ModifiedTime>{time}</ModifiedTime>
  <ReadTime>{time}</ReadTime>
  <Computer>
    <VersionDirectory>1</VersionDirectory>
    <VersionSysvol>1</VersionSysvol>
    <Enabled>true</Enabled>
    <ExtensionData>
      <Extension xmlns:q1="http://www.microsoft.com/GroupPolicy/Settings/Registry" xsi:type="q1:RegistrySettings">
        {settings}
      </Extension>
      <Name>Registry</Name>
    </ExtensionData>
  </Computer>
  <User><VersionDirectory>0</VersionDirectory><VersionSysvol>0</VersionSysvol><Enabled>true</Enabled></User>
</GPO>"""


def _shown(value: RegistryValue) -> tuple[str, str]:
    if isinstance(value.data, int):
        return "Number", str(value.data)
    if isinstance(value.data, tuple):
        return "String", ";".join(value.data)
    return "String", value.data if isinstance(value.data, str) else value.data.hex()
