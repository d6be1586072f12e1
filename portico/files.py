"""Files of state: read with errors that name them, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError, Unavailable

Watcher = Callable[[Path, tuple[bytes, int] | None], None]

watchers: list[Watcher] = []
"""Told of every file that this process writes (its bytes and mode) or removes (None), while `changing` is held."""

changing = threading.RLock()
"""Whoever compares files with what was written holds it, so that no write is seen half done."""


def read_file(path: Path, *, limit: int = 1 << 20) -> bytes:
    """The content of a regular file of at most `limit` bytes, never empty.

    Raises:
        NotFound, NotPermitted, InvalidInput, Unavailable: with codes FILE_MISSING, FILE_NOT_READABLE, FILE_EMPTY,
            FILE_TOO_LARGE, FILE_NOT_REGULAR, FILE_UNREADABLE; each names the file.
    """
    what = f"cannot read {path}"
    try:
        # Without O_NONBLOCK, opening a FIFO that was put there by mistake would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(
                    what, why="it is not a regular file", resolution="Name a file", code="FILE_NOT_REGULAR"
                )
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise NotFound(
            what, why="there is no such file", resolution="Create it, or correct the path", code="FILE_MISSING"
        ) from None
    except PermissionError:
        raise NotPermitted(
            what,
            why="permission denied",
            resolution=f"Run as root, or check with: ls -l {path}",
            code="FILE_NOT_READABLE",
        ) from None
    except (OSError, ValueError) as error:
        raise Unavailable(
            what, why=str(error), resolution="Check the path and the file system", code="FILE_UNREADABLE"
        ) from None
    if not data:
        raise InvalidInput(
            what, why="the file is empty", resolution="Restore it from a backup or write it anew", code="FILE_EMPTY"
        )
    if len(data) > limit:
        raise InvalidInput(
            what,
            why=f"it is larger than {limit} bytes",
            resolution="Check that it is the right file",
            code="FILE_TOO_LARGE",
        )
    return data


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replaces a file atomically and durably.

    The bytes go to a file of mode 0600 beside the target first, so a secret is never readable by others for an instant
    and a crash leaves the old file or the new one.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN; the old file is untouched.
    """
    try:
        with _whole(path, mode, data) as file:
            file.write(data)
    except ValueError as error:
        raise not_written(path, error) from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600 for what comes in pieces. It takes the place of `path` when the block ends well, durably;
    otherwise `path` is as it was.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN; also for an OSError of the block.
    """
    with _whole(path, 0o600, None) as file:
        yield file


@contextlib.contextmanager
def _whole(path: Path, mode: int, told: bytes | None) -> Iterator[BinaryIO]:
    """`told` is what `watchers` are to be told of; None for a file that is no state."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # always 0600
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        with changing:
            Path(temporary).replace(path)
            if told is not None:
                _tell(path, (told, mode))
        temporary = None
        _sync_directory(path.parent)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def remove_file(path: Path) -> None:
    """Removes a file of state, which may be gone already. Raises OSError."""
    with changing:
        path.unlink(missing_ok=True)
        _tell(path, None)


def remove_tree(path: Path) -> None:
    """Removes a directory of state with everything in it. Raises OSError."""
    with changing:
        shutil.rmtree(path)
        _tell(path, None)


def note_written(path: Path, data: bytes, mode: int = 0o600) -> None:
    """For code that writes a file of state in a way of its own, while it holds `changing`."""
    _tell(path, (data, mode))


def _tell(path: Path, content: tuple[bytes, int] | None) -> None:
    for watcher in list(watchers):
        watcher(path, content)


def private_directory(path: Path) -> Path:
    """Makes a directory (and its parents) that only its owner enters, mode 0700, and returns it.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN; it cannot be made, or is not a directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) != 0o700:
            path.chmod(0o700)
    except (OSError, ValueError) as error:
        raise not_written(path, error) from None
    return path


@contextlib.contextmanager
def exclusive(path: Path, *, what: str, resolution: str) -> Iterator[None]:
    """Holds a lock file for the block. The kernel lets go of it when the process ends, however it ends.

    A socket that nobody answers on does not prove that nobody is about to: two processes that start together would
    both take it. Only the lock decides.

    Raises:
        Conflict: code AGENT_RUNNING, another process holds it.
        Unavailable: code FILE_NOT_WRITTEN.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except (OSError, ValueError) as error:
        raise not_written(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                what, why=f"another process holds {path}", resolution=resolution, code="AGENT_RUNNING"
            ) from None
        except OSError as error:
            raise not_written(path, error) from None
        yield
    finally:
        os.close(descriptor)


def not_written(path: Path, error: Exception) -> PorticoError:
    """The error for a path that cannot be written."""
    resolution = f"Check free space and permissions: df {path.parent}; ls -ld {path.parent}"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        resolution = (
            f"Open it to the service: systemctl edit portico-server, with ReadWritePaths={path.parent} in [Service]; "
            f"or remount the file system: findmnt --target {path.parent}"
        )
    return Unavailable(
        f"cannot write {path}",
        why=str(error),
        resolution=resolution,
        code="FILE_NOT_WRITTEN",
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
