"""Wheels: what one holds, and one of the program that is installed, so that it can be put back. Blocking."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from email.parser import BytesParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Final

import portico
from portico.errors import InvalidInput, NotFound, Unavailable
from portico.files import private_directory, read_file

NAME: Final = "portico"
LIMIT: Final = 256 << 20
_UNPACKED: Final = 1 << 20
"""Of the file with the metadata."""
_NOT_PACKED: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""What pip adds to a distribution beside what came in its wheel."""
_WHEEL_NAME = re.compile(r"portico-[A-Za-z0-9_.+!]{1,60}(-[A-Za-z0-9_.]{1,80}){3,4}\.whl")


@dataclass(frozen=True)
class Wheel:
    """A wheel of Portico, read whole. `sha256` is hexadecimal."""

    name: str
    version: str
    sha256: str
    data: bytes


def read_wheel(path: Path, expected: str | None = None) -> Wheel:
    """Reads a wheel and looks into it.

    Args:
        expected: the SHA-256 it must have, hexadecimal; None: any.

    Raises:
        InvalidInput: code SHA256_DIFFERS, WHEEL_UNUSABLE. NotFound, NotPermitted: it cannot be read.
    """
    data = read_file(path, limit=LIMIT)
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.strip().lower():
        raise InvalidInput(
            f"{path} is not the wheel that was meant",
            why=f"its SHA-256 is {digest}",
            resolution="Copy it again from where it was built, and compare: sha256sum FILE",
            code="SHA256_DIFFERS",
        )
    if not _WHEEL_NAME.fullmatch(path.name):
        raise _unusable(path, "its name is not portico-VERSION-PYTHON-ABI-PLATFORM.whl")
    return Wheel(path.name, _version(path, data), digest, data)


def installed() -> Distribution:
    """The distribution that this program runs from.

    Raises:
        Unavailable: code NOT_A_WHEEL; it runs from a directory with sources.
    """
    try:
        found = distribution(NAME)
    except PackageNotFoundError:
        raise _no_installation(f"{portico.__file__} belongs to no installation") from None
    here = Path(str(found.locate_file(f"{NAME}/__init__.py"))).resolve()
    if here != Path(portico.__file__).resolve() or not found.files:
        raise _no_installation(f"it runs from {Path(portico.__file__).parent.parent}, a directory with sources")
    return found


def former_name(found: Distribution) -> str:
    """What the wheel of an installed distribution is called. Raises Unavailable when it does not say for what it is."""
    return f"{NAME}-{found.version}-{_tag(found)}.whl"


def pack(found: Distribution, directory: Path) -> Path:
    """Makes a wheel of what is installed, of the files that its installation noted.

    Raises:
        Unavailable: a file is missing or cannot be read, or the wheel cannot be written.
    """
    info = f"{NAME}-{found.version}.dist-info"
    target = private_directory(directory) / former_name(found)
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    temporary = target.with_suffix(".new")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for file in found.files or ():
                if not _came_in_the_wheel(PurePosixPath(file), info):
                    continue
                data = Path(str(found.locate_file(file))).read_bytes()
                archive.writestr(str(file), data)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                rows.writerow([str(file), f"sha256={digest}", len(data)])
            rows.writerow([f"{info}/RECORD", "", ""])
            archive.writestr(f"{info}/RECORD", record.getvalue())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Unavailable(
            "The program that is installed cannot be kept",
            why=str(error),
            resolution="Repair it first: packaging/install.sh WHEEL, with the version that it has",
        ) from None
    return target


def _came_in_the_wheel(file: PurePosixPath, info: str) -> bool:
    """Scripts are outside of the packages' directory and made anew; compiled files come with the first start."""
    if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts:
        return False
    return not (file.parts[0] == info and file.name in _NOT_PACKED)


def _tag(found: Distribution) -> str:
    """The compatibility tag of the installed wheel: `cp311-abi3-linux_x86_64`."""
    text = found.read_text("WHEEL") or ""
    tags = [line.partition(":")[2].strip() for line in text.splitlines() if line.lower().startswith("tag:")]
    if not tags or not re.fullmatch(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+", tags[0]):
        raise Unavailable(
            "The program that is installed cannot be kept",
            why="its installation does not say for which machines it is",
            resolution="Repair it first: packaging/install.sh WHEEL, with the version that it has",
        )
    return tags[0]


def _version(path: Path, data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if re.fullmatch(r"portico-[^/]+\.dist-info/METADATA", n)]
            if len(names) != 1:
                raise _unusable(path, "it holds no metadata of Portico")
            with archive.open(names[0]) as file:
                metadata = BytesParser().parsebytes(file.read(_UNPACKED))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _unusable(path, f"it is damaged ({type(error).__name__})") from None
    version = str(metadata.get("Version", ""))
    if str(metadata.get("Name", "")).lower() != NAME or not version:
        raise _unusable(path, "it is a wheel of something else")
    return version


def _unusable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be used",
        why=why,
        resolution="Build one with 'make wheel'; it lies in dist/",
        code="WHEEL_UNUSABLE",
    )


def _no_installation(why: str) -> NotFound:
    return NotFound(
        "There is no installation to upgrade",
        why=why,
        resolution="Install it for the machine: make install, or packaging/install.sh",
        code="NOT_A_WHEEL",
    )
