"""Bringing the files that the settings name to a server that lacks them: what is sent, how it is put there. Blocking.

Only paths that the document names travel, and nothing that is somebody else's is replaced. No link is followed on the
way to a file that is written: whoever may write in a directory above it could otherwise have root write elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError
from portico.files import not_written, read_file, remove_file, write_file
from portico.settings.model import Settings
from portico.settings.named_files import NamedFile, named_files

log = logging.getLogger("portico.server")

BROUGHT_NAME = "brought.json"
MAXIMUM_FILES = 64
MAXIMUM_FILE = 1 << 20
MAXIMUM_TOTAL = 4 << 20
"""Bytes that travel in one message; what does not fit the administrator has to bring."""
_FOREIGN = tuple(map(PurePosixPath, ("/dev", "/proc", "/run", "/sys")))
_MODES = {True: 0o600, False: 0o640}


def carried(settings: Settings, state: Path) -> dict[str, NamedFile]:
    """The files of a document that servers bring each other, by path.

    A relative path means something else in each process, and nobody else writes what is in the state or the kernel's.
    """
    found = {}
    for path, named in named_files(settings).items():
        pure = PurePosixPath(path)
        clean = pure.is_absolute() and str(pure) == path and not {"..", "."} & {*pure.parts}
        if clean and not any(pure.is_relative_to(place) for place in (*_FOREIGN, PurePosixPath(state))):
            found[path] = named
    return dict(list(found.items())[:MAXIMUM_FILES])


def offer(files: Collection[NamedFile]) -> list[dict[str, str]]:
    """Files of this server for another one: [{path, sha256, data}]; without those that cannot be read here."""
    found: list[dict[str, str]] = []
    total = 0
    for named in files:
        try:
            data = read_file(Path(named.path), limit=MAXIMUM_FILE)
        except PorticoError as error:
            log.debug("file=%s is not brought to others: %s", named.path, error.why)
            continue
        total += len(data)
        if total > MAXIMUM_TOTAL:
            log.warning("file=%s is not brought to others: there is more than %d bytes", named.path, MAXIMUM_TOTAL)
            break
        found.append({"path": named.path, "sha256": digest(data), "data": base64.b64encode(data).decode()})
    return found


def take(settings: Settings, state: Path, offered: Any) -> dict[str, str]:
    """Puts files there that another server brought and that are missing here; returns those, with their SHA-256.

    Raises:
        Conflict: code FILE_DIFFERS, there is another file that should be the same on all servers.
        NotPermitted: code FILE_BEHIND_LINK.
        InvalidInput: code MESSAGE_MALFORMED; the document does not name it, or it is not what it is said to be.
        Unavailable: code FILE_NOT_WRITTEN.
        What was written until then is removed.
    """
    wanted = carried(settings, state)
    written: dict[str, str] = {}
    try:
        for named, data in _offered(wanted, offered):
            present = present_digest(named.path)
            if present is None:
                take_one(named, data)
                written[named.path] = digest(data)
                log.info("file=%s setting=%s brought by another server", named.path, named.setting)
            elif present != digest(data) and named.of.kind == "shared":
                raise differs(named)
    except BaseException:
        remove(written)
        raise
    return written


def take_one(named: NamedFile, data: bytes) -> None:
    """Puts a file there that is missing. Raises as `take`."""
    place(Path(named.path), data, mode=_MODES[named.of.secret])


def replace(named: NamedFile, data: bytes) -> None:
    """Puts a newer content in the place of the former one. Raises as `take`."""
    place(Path(named.path), data, mode=_MODES[named.of.secret], over=True)


def remove(written: Mapping[str, str]) -> None:
    """Takes away what was put there, unless somebody has changed it since."""
    for path, sha256 in written.items():
        with contextlib.suppress(OSError, PorticoError):
            if present_digest(path) == sha256:
                remove_file(Path(path))


def note(directory: Path, written: Mapping[str, str]) -> None:
    """Remembers, in the cluster's directory, what was brought: a server that is taken out keeps none of it.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN.
    """
    if written:
        write_file(directory / BROUGHT_NAME, json.dumps({**brought(directory), **written}).encode())


def brought(directory: Path) -> dict[str, str]:
    """What was brought to this server, with its SHA-256."""
    try:
        data = json.loads(read_file(directory / BROUGHT_NAME))
        return {str(path): str(sha256) for path, sha256 in data.items()}
    except NotFound:
        return {}
    except (PorticoError, ValueError, AttributeError, RecursionError) as error:
        log.warning("file=%s cannot be read: %s", directory / BROUGHT_NAME, type(error).__name__)
        return {}


def present_digest(path: str) -> str | None:
    """SHA-256 (hex) of a file here; None when there is none. Raises PorticoError when it cannot be read."""
    try:
        return digest(read_file(Path(path), limit=MAXIMUM_FILE))
    except NotFound:
        return None
    except InvalidInput as error:
        if error.code == "FILE_EMPTY":
            return digest(b"")
        raise


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def place(path: Path, data: bytes, *, mode: int, over: bool = False) -> None:
    """Writes a file, whole or not at all, without following a link anywhere on its path; makes missing directories.

    Args:
        over: whether it may be there already.

    Raises:
        NotPermitted: code FILE_BEHIND_LINK.
        Unavailable: code FILE_NOT_WRITTEN.
    """
    temporary = f".{path.name[:200]}.{secrets.token_hex(8)}"
    try:
        with _directory(path.parent) as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), mode)
                    os.fsync(file.fileno())
                if over:
                    _no_link(path, directory)
                    os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                else:  # a link to the temporary one, as a rename would replace what somebody put there meanwhile
                    os.link(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
            os.fsync(directory)
    except (OSError, ValueError) as error:
        raise not_written(path, error) from None


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory that is reached through no link; missing ones are made."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(path.root, flags)
    try:
        for part in path.parts[1:]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            if stat.S_ISLNK(os.stat(part, dir_fd=here, follow_symlinks=False).st_mode):
                raise _behind_link(path)
            deeper = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = deeper
        yield here
    finally:
        os.close(here)


def _no_link(path: Path, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise _behind_link(path)


def _offered(wanted: dict[str, NamedFile], offered: Any) -> Iterator[tuple[NamedFile, bytes]]:
    if not isinstance(offered, list) or len(offered) > MAXIMUM_FILES:
        raise _malformed("'files' is no list of them")
    for item in offered:
        yield file_of(wanted.get, item)


def file_of(wanted: Callable[[str], NamedFile | None], item: Any) -> tuple[NamedFile, bytes]:
    """A file that travelled, and its bytes. Raises InvalidInput."""
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("path", "sha256", "data")):
        raise _malformed("a file is malformed")
    named = wanted(item["path"])
    if named is None:
        raise _malformed("the settings do not name a file that is in it")
    try:
        data = base64.b64decode(item["data"], validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("a file is not base64") from None
    if len(data) > MAXIMUM_FILE or digest(data) != item["sha256"]:
        raise _malformed("a file is not what it is said to be")
    return named, data


def differs(named: NamedFile) -> Conflict:
    """A file that is another one here than on the server that brings it."""
    return Conflict(
        f"{named.path} is another file on this server than on the others",
        why=f"{named.setting} names it, and its content has to be the same on all servers",
        resolution=f"Compare them (sha256sum {named.path}); move the one that is wrong away and try again",
        code="FILE_DIFFERS",
    )


def _behind_link(path: Path) -> NotPermitted:
    return NotPermitted(
        f"A file of the settings is not written: {path} is a symbolic link",
        why="what another server brings is written where the settings say, and nowhere else",
        resolution="Make it a directory or a file, or put the file there by hand",
        code="FILE_BEHIND_LINK",
    )


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(
        "The files of another server cannot be used",
        why=why,
        resolution="Use the same version of Portico on all servers",
        code="MESSAGE_MALFORMED",
    )
