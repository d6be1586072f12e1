"""The kinds of values in the settings document: how each is read, checked and printed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from portico.settings.addresses import (
    Address,
    AddressPortPool,
    DnsServer,
    Network,
    PrefixMapping,
    parse_host_address,
    parse_network,
)


@dataclass(frozen=True)
class FileOf:
    """Marks a setting that names a file. A server of a cluster that lacks the file is brought it by the others.

    Attributes:
        kind: shared: the same on all servers, another content is refused; own: a server may have one of its own;
            fetched: the same, and each server gets its changes elsewhere.
        secret: only root may read it.
    """

    kind: Literal["shared", "own", "fetched"]
    secret: bool = False


_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", flags=re.ASCII)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text was expected")
    return value.strip()


def host_name(value: object) -> str:
    """A DNS name in lower case, without the final dot; raises ValueError for anything that cannot be one."""
    name = _text(value).lower().removesuffix(".")
    if not name:
        raise ValueError("a name was expected")
    if not name.isascii():
        raise ValueError(f"'{name}' is not ASCII; write an international name in its xn-- form")
    if len(name) > 253:
        raise ValueError("a name has at most 253 characters")
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"'{label or name}' is not a label of a name (1 to 63 letters, digits, hyphens; no hyphen at an end)"
            )
    return name


def _qualified_name(value: object) -> str:
    name = host_name(value)
    if "." not in name:
        raise ValueError(f"'{name}' has one label only; give the full domain name")
    return name


def _single_label(value: object) -> str:
    name = host_name(value)
    if "." in name:
        raise ValueError(f"'{name}' has a dot; give the short name")
    return name


def _host(value: object) -> str:
    """A public name or an address in its canonical form."""
    text = _text(value)
    candidate = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ip_address(candidate)
    except ValueError:
        name = _qualified_name(text)
        if name.rpartition(".")[2].isdigit():
            raise ValueError(f"'{text}' is neither a name nor an address") from None
        return name
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"'{text}' has a scope; a client elsewhere cannot use it")
    return str(address)


def _namespace(value: object) -> str:
    """An NRPT namespace: a leading dot makes it a suffix, without it it is one exact name."""
    text = _text(value)
    if text == ".":
        return text
    return f".{host_name(text[1:])}" if text.startswith(".") else host_name(text)


def _exclusion(value: object) -> str:
    text = _text(value)
    return str(_ipv6_network(text)) if "/" in text else _namespace(text)


def _suffix(value: object) -> str:
    """A domain and all below it, as a zone is called: without a dot in front."""
    return host_name(_text(value).removeprefix("."))


def _interface_name(value: object) -> str:
    name = _text(value)
    if (
        not name
        or len(name) > 15
        or name in (".", "..")
        or any(c in "/:" or c.isspace() or not c.isprintable() for c in name)
    ):
        raise ValueError(f"'{name}' is not the name of a network interface (1 to 15 characters, no blank, '/' or ':')")
    if not name.isascii():
        raise ValueError(f"'{name}' is not ASCII")
    return name


_T = TypeVar("_T")


def _parsed(kind: type[_T], parse: Callable[[str], _T]) -> BeforeValidator:
    def validate(value: object) -> _T:
        return value if isinstance(value, kind) else parse(_text(value))

    return BeforeValidator(validate)


def _ipv6_network(value: object) -> IPv6Network:
    network = value if isinstance(value, IPv6Network) else parse_network(_text(value))
    if not isinstance(network, IPv6Network):
        raise ValueError(f"{network} is an IPv4 prefix; an IPv6 prefix was expected")
    return network


def _network(value: object) -> Network:
    return value if isinstance(value, IPv4Network | IPv6Network) else parse_network(_text(value))


def _destination(value: object) -> Network | str:
    if isinstance(value, str) and value.strip().lower() == "any":
        return "any"
    return _network(value)


def _ipv4_address(value: object) -> IPv4Address:
    return value if isinstance(value, IPv4Address) else IPv4Address(_text(value))


def _ipv6_address(value: object) -> IPv6Address:
    address = value if isinstance(value, IPv6Address) else IPv6Address(_text(value))
    if address.scope_id is not None:
        raise ValueError(f"'{address}' has a scope")
    return address


def _address(value: object) -> Address:
    address = value if isinstance(value, IPv4Address | IPv6Address) else ip_address(_text(value))
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"'{address}' has a scope")
    return address


def _host_address(value: object) -> IPv4Interface | IPv6Interface:
    return parse_host_address(str(value) if isinstance(value, IPv4Interface | IPv6Interface) else _text(value))


def _virtual_address(value: object) -> Address | str:
    if isinstance(value, str) and value.strip().lower() == "all":
        return "all"
    return _address(value)


def _tls_version(value: object) -> object:
    # An unquoted 1.2 is a number in YAML; there is only one thing it can mean.
    return str(value) if isinstance(value, float) else value


def _each_once(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is in the list more than once")
    return values


_as_text = PlainSerializer(str, return_type=str, when_used="json")

HostName = Annotated[str, BeforeValidator(_qualified_name)]
ShortName = Annotated[str, BeforeValidator(_single_label)]
PublicHost = Annotated[str, BeforeValidator(_host)]
Namespace = Annotated[str, BeforeValidator(_namespace)]
Suffix = Annotated[str, BeforeValidator(_suffix)]
Exclusion = Annotated[str, BeforeValidator(_exclusion)]
InterfaceName = Annotated[str, BeforeValidator(_interface_name)]
Ipv6Prefix = Annotated[IPv6Network, BeforeValidator(_ipv6_network), _as_text]
AnyPrefix = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network), _as_text]
Destination = Annotated[
    IPv4Network | IPv6Network | Literal["any"], BeforeValidator(_destination), PlainSerializer(str, when_used="json")
]
Ipv4 = Annotated[IPv4Address, BeforeValidator(_ipv4_address), _as_text]
Ipv6 = Annotated[IPv6Address, BeforeValidator(_ipv6_address), _as_text]
AnyAddress = Annotated[IPv4Address | IPv6Address, BeforeValidator(_address), _as_text]
HostAddress = Annotated[IPv4Interface | IPv6Interface, BeforeValidator(_host_address), _as_text]
VirtualAddress = Annotated[
    IPv4Address | IPv6Address | Literal["all"],
    BeforeValidator(_virtual_address),
    PlainSerializer(str, when_used="json"),
]
Cipher = Literal["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"]
EachOnce = AfterValidator(_each_once)
TlsVersion = Annotated[Literal["1.2", "1.3"], BeforeValidator(_tls_version)]
PortPool = Annotated[AddressPortPool, _parsed(AddressPortPool, AddressPortPool.parse), _as_text]
Mapping = Annotated[PrefixMapping, _parsed(PrefixMapping, PrefixMapping.parse), _as_text]
Upstream = Annotated[DnsServer, _parsed(DnsServer, DnsServer.parse), _as_text]
_Path = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=4096)]
DirectoryPath = _Path
FilePath = Annotated[_Path, FileOf("shared")]
SecretPath = Annotated[_Path, FileOf("shared", secret=True)]
CertificatePath = Annotated[_Path, FileOf("own")]
KeyPath = Annotated[_Path, FileOf("own", secret=True)]
CrlPath = Annotated[_Path, FileOf("fetched")]
State = Literal["enabled", "disabled"]


class Section(BaseModel):
    """A part of the document: nothing in it is unknown, converted or changed afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        arbitrary_types_allowed=True,
        populate_by_name=True,
        validate_default=True,
    )
