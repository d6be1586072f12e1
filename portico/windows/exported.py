"""What a Windows administrator saved of a deployment: CLIXML, JSON, or the client's Registry.pol. Pure.

`Get-RemoteAccess | Export-Clixml remoteaccess.xml` and `Get-DAClientDnsConfiguration | ConvertTo-Json > dns.json` write
the same properties in two forms ([MS-PSRP] 2.2.5 for CLIXML); both become flat objects here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree

from portico.errors import InvalidInput
from portico.windows import registry_pol
from portico.windows.registry_pol import RegistryValue

MAXIMUM_SIZE: Final = 16 << 20
_MAXIMUM_OBJECTS: Final = 10_000
_MAXIMUM_DEPTH: Final = 32
_CLIXML: Final = "{http://schemas.microsoft.com/powershell/2004/04}"
_NUMBERS: Final = frozenset({"I16", "I32", "I64", "U16", "U32", "U64", "By", "SB"})
# What CIM adds to every object and no administrator decided.
_INTERNAL: Final = frozenset(
    {"CimClass", "CimInstanceProperties", "CimSystemProperties", "PSComputerName", "PSShowComputerName", "RunspaceId"}
)


@dataclass(frozen=True)
class Exported:
    """One object that a cmdlet returned.

    Attributes:
        kind: the last part of its type's name (`DAServer`), empty where the form does not say it.
        properties: as Windows names them; values are text, numbers, booleans, None, lists and mappings of those.
    """

    source: str
    kind: str
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """Everything that was read."""

    objects: tuple[Exported, ...] = ()
    values: tuple[RegistryValue, ...] = ()


def read(data: bytes, *, source: str) -> Export:
    """Reads one file; its form is told by its content.

    Raises:
        InvalidInput: (EXPORT_*) it has none of the forms, or is damaged.
    """
    if len(data) > MAXIMUM_SIZE:
        raise _refused(source, f"it is larger than {MAXIMUM_SIZE} bytes", "EXPORT_TOO_LARGE")
    if data[:4] == registry_pol.SIGNATURE[:4]:
        try:
            return Export(values=tuple(registry_pol.parse(data)))
        except ValueError as error:
            raise _refused(source, str(error), "EXPORT_DAMAGED") from None
    text = _decoded(data, source)
    start = text.lstrip()[:1]
    if start == "<":
        return Export(objects=tuple(_clixml(text, source)))
    if start in ("{", "["):
        return Export(objects=tuple(_json(text, source)))
    raise _refused(source, "it is neither CLIXML nor JSON nor a Registry.pol", "EXPORT_UNKNOWN_FORM")


def _refused(source: str, why: str, code: str) -> InvalidInput:
    return InvalidInput(
        f"{source} is no export that can be read",
        why=why,
        resolution="Write it on the Windows server with: Get-RemoteAccess | Export-Clixml remoteaccess.xml",
        code=code,
    )


def _decoded(data: bytes, source: str) -> str:
    """PowerShell writes UTF-16 with a byte order mark when it redirects, UTF-8 otherwise."""
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig")):
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise _refused(source, f"byte {error.start} is not {encoding.upper()}", "EXPORT_DAMAGED") from None
    raise AssertionError("the empty mark fits")


def _clixml(text: str, source: str) -> Iterator[Exported]:
    if re.search(r"<!(DOCTYPE|ENTITY)", text, flags=re.IGNORECASE):
        raise _refused(source, "it declares a document type, which CLIXML never does", "EXPORT_DAMAGED")
    # The declaration names the encoding of the bytes, which are text already.
    body = re.sub(r"^\s*<\?xml[^>]*\?>", "", text, count=1)
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 (without a document type there are no entities)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise _refused(source, f"its XML is damaged: {error}", "EXPORT_DAMAGED") from None
    if root.tag != f"{_CLIXML}Objs":
        raise _refused(source, "it is XML, but not what Export-Clixml writes", "EXPORT_UNKNOWN_FORM")
    reader = _ClixmlReader(source)
    for count, element in enumerate(root):
        if count == _MAXIMUM_OBJECTS:
            raise _refused(source, f"it has more than {_MAXIMUM_OBJECTS} objects", "EXPORT_TOO_LARGE")
        value = reader.value(element, 0)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                kind = item.pop("", "")
                yield Exported(source, str(kind), item)


class _ClixmlReader:
    """Objects and type names may be referred to by number later in the document."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.types: dict[str, str] = {}
        self.objects: dict[str, Any] = {}

    def value(self, element: ElementTree.Element, depth: int) -> Any:
        if depth > _MAXIMUM_DEPTH:
            raise _refused(self.source, f"it is nested deeper than {_MAXIMUM_DEPTH}", "EXPORT_DAMAGED")
        tag = element.tag.removeprefix(_CLIXML)
        text = element.text or ""
        if tag == "Nil":
            return None
        if tag == "B":
            return text.strip() == "true"
        if tag in _NUMBERS:
            try:
                return int(text)
            except ValueError:
                raise _refused(self.source, f"'{text[:40]}' is no number", "EXPORT_DAMAGED") from None
        if tag == "Obj":
            return self._object(element, depth)
        if tag == "Ref":
            return self.objects.get(element.get("RefId", ""))
        return _unescaped(text)

    def _object(self, element: ElementTree.Element, depth: int) -> Any:
        found: dict[str, Any] = {}
        items: list[Any] | None = None
        plain: Any = None
        for part in element:
            tag = part.tag.removeprefix(_CLIXML)
            if tag == "TN":
                names = [name.text or "" for name in part]
                kind = _kind(names)
                self.types[part.get("RefId", "")] = kind
                found[""] = kind
            elif tag == "TNRef":
                found[""] = self.types.get(part.get("RefId", ""), "")
            elif tag in ("Props", "MS"):
                for entry in part:
                    name = entry.get("N", "")
                    if name and name not in _INTERNAL:
                        found[name] = _plain(self.value(entry, depth + 1))
            elif tag in ("LST", "IE", "STK", "QUE"):
                items = [self.value(entry, depth + 1) for entry in part]
            elif tag == "ToString":
                plain = _unescaped(part.text or "")
            elif tag not in ("DCT",):
                plain = self.value(part, depth + 1)
        properties = any(name for name in found if name)
        result: Any = found if properties else items if items is not None else plain
        self.objects[element.get("RefId", "")] = result
        return result


def _kind(names: list[str]) -> str:
    """`Deserialized.Microsoft.Management.Infrastructure.CimInstance#root/.../DAServer` is a DAServer."""
    first = next((name for name in names if "#" in name or "/" in name), names[0] if names else "")
    return re.split(r"[/#.]", first)[-1].removeprefix("PS_")


def _plain(value: Any) -> Any:
    """A nested object without its type's name, lists of them alike."""
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if name}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _unescaped(text: str) -> str:
    """_x000A_ is how CLIXML writes a character that XML cannot have."""
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), text)


def _json(text: str, source: str) -> Iterator[Exported]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(source, f"its JSON is damaged: {error}", "EXPORT_DAMAGED") from None
    items = found if isinstance(found, list) else [found]
    if len(items) > _MAXIMUM_OBJECTS:
        raise _refused(source, f"it has more than {_MAXIMUM_OBJECTS} objects", "EXPORT_TOO_LARGE")
    for item in items:
        if not isinstance(item, dict):
            raise _refused(source, "a list of objects was expected", "EXPORT_UNKNOWN_FORM")
        # What `ConvertTo-Json` calls the type of a CIM instance.
        of_class = item.get("CimClass")
        kind = of_class.get("CimClassName", "") if isinstance(of_class, dict) else ""
        properties = {str(name): value for name, value in item.items() if name not in _INTERNAL}
        yield Exported(source, str(kind).removeprefix("PS_"), properties)
