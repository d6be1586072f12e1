"""API tokens, sessions and certificates of administrators, in one private file that is the same on every server.

Records only grow until they expire: a record that was made stays made, a revoked one revoked. So they may come from
any server, twice and in any order, and servers that saw the same ones agree. Of a token and a session the SHA-256 is
kept (the secret is 32 random bytes, so a slow hash would add nothing).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from portico.administration.roles import Role
from portico.errors import InvalidInput, LimitReached, NotFound, NotPermitted, PorticoError
from portico.files import private_directory, read_file, remove_file, write_file

RECORDS_NAME = "access.json"
MAXIMUM_RECORDS: Final = 4096
MAXIMUM_FILE: Final = 8 << 20
SESSIONS_EACH: Final = 16
"""Open sessions of one user; the oldest ends for one more."""
MAXIMUM_LIFETIME = timedelta(days=3650)
KEPT_AFTER_EXPIRY = timedelta(days=7)
SESSION_KEPT_AFTER_EXPIRY = timedelta(hours=1)

RecordKind = Literal["token", "session", "certificate", "cutoff"]
_KINDS: Final = ("token", "session", "certificate", "cutoff")
_CREDENTIAL = re.compile(r"portico_(token|session)_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", flags=re.ASCII)
_ID = re.compile(r"[0-9a-f]{1,64}", flags=re.ASCII)

Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Record:
    """One credential. A `cutoff` is none: it makes what an OIDC subject got before `created` useless.

    Attributes:
        id: random, of a certificate its serial number, of a cutoff the hash of issuer and subject.
        role: None for a certificate, whose role the settings say.
        secret_sha256: None where there is no secret.
        author: who made it.
    """

    id: str
    kind: RecordKind
    name: str
    role: str | None
    secret_sha256: str | None
    created: datetime
    expires: datetime
    author: str
    revoked: datetime | None = None

    def state(self, now: datetime) -> Literal["open", "revoked", "expired"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if now >= self.expires else "open"

    def kept(self, now: datetime) -> bool:
        """Whether it is still listed, and told to other servers."""
        after = SESSION_KEPT_AFTER_EXPIRY if self.kind == "session" else KEPT_AFTER_EXPIRY
        return now < self.expires + after

    def as_data(self) -> dict[str, Any]:
        """As it is stored and travels to the other servers."""
        return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(self).items()}

    def shown(self, now: datetime) -> dict[str, Any]:
        """As administrators see it: without the hash of the secret."""
        data = self.as_data()
        del data["secret_sha256"]
        return {**data, "state": self.state(now)}

    @classmethod
    def from_data(cls, data: Any) -> Record:
        """Raises ValueError for anything that `as_data` does not make."""
        try:
            record = cls(
                id=data["id"],
                kind=data["kind"],
                name=data["name"],
                role=data["role"],
                secret_sha256=data["secret_sha256"],
                created=_time(data["created"]),
                expires=_time(data["expires"]),
                author=data["author"],
                revoked=_time(data["revoked"]) if data["revoked"] is not None else None,
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"a record lacks something: {error}") from None
        texts = (record.id, record.name, record.author)
        if not all(isinstance(text, str) and 0 < len(text) <= 256 and text.isprintable() for text in texts):
            raise ValueError("a text of a record is out of its range")
        if record.kind not in _KINDS or not _ID.fullmatch(record.id):
            raise ValueError("a record is of no kind that there is")
        if record.role is not None:
            Role.parse(record.role)
        if record.kind in ("token", "session") and not (
            isinstance(record.secret_sha256, str) and re.fullmatch(r"[0-9a-f]{64}", record.secret_sha256)
        ):
            raise ValueError("a record has no secret")
        return record


class AccessRecords:
    """The records on this server. Blocking and safe for threads; reads are from memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._records: dict[str, Record] | None = None

    @property
    def path(self) -> Path:
        return self._directory / RECORDS_NAME

    def create(
        self,
        kind: Literal["token", "session"],
        name: str,
        role: Role,
        *,
        author: str,
        lifetime: timedelta,
        now: datetime,
        random: Random = secrets.token_bytes,
    ) -> tuple[Record, str]:
        """A new credential and its text, which is kept by nobody.

        Raises:
            InvalidInput: code TOKEN_LIFETIME, NAME_INVALID. LimitReached: code ACCESS_FULL. Unavailable: not stored.
        """
        secret = base64.urlsafe_b64encode(random(32)).rstrip(b"=").decode()
        identifier = random(8).hex()
        record = Record(
            identifier,
            kind,
            _name(name),
            role.text,
            _hash(secret),
            now,
            now + _lifetime(lifetime),
            _name(author),
        )
        with self._lock:
            records = self._live(now)
            if kind == "session":
                same = [r for r in records.values() if r.kind == "session" and r.author == author]
                mine = [r for r in same if r.state(now) == "open"]
                mine.sort(key=lambda r: (r.created, r.id))
                for old in mine[: max(0, len(mine) - SESSIONS_EACH + 1)]:
                    records[old.id] = replace(old, revoked=now)
            self._add(records, record)
        return record, f"portico_{kind}_{identifier}_{secret}"

    def note_certificate(self, serial: str, name: str, expires: datetime, *, author: str, now: datetime) -> Record:
        """Remembers a certificate that was issued: one that is not here is accepted nowhere. Raises as `create`."""
        record = Record(serial, "certificate", _name(name), None, None, now, expires, _name(author))
        with self._lock:
            self._add(self._live(now), record)
        return record

    def cut_off(
        self, issuer: str, subject: str, name: str, lifetime: timedelta, *, author: str, now: datetime
    ) -> Record:
        """Makes everything useless that an OIDC provider gave a subject until now. Raises as `create`."""
        record = Record(
            subject_id(issuer, subject), "cutoff", _name(name), None, None, now, now + lifetime, _name(author)
        )
        with self._lock:
            self._add(self._live(now), record)
        return record

    def revoke(self, identifier: str, *, now: datetime) -> Record:
        """Makes one useless; one that is revoked already stays as it is.

        Raises:
            NotFound: code NO_SUCH_CREDENTIAL. Unavailable: not stored.
        """
        with self._lock:
            records = self._live(now)
            found = records.get(identifier)
            if found is None or found.kind == "cutoff":
                raise NotFound(
                    f"There is no token, session or certificate {identifier[:64]}",
                    why="nothing has this identifier",
                    resolution="List them with: portico admin list",
                    code="NO_SUCH_CREDENTIAL",
                )
            if found.revoked is None:
                found = replace(found, revoked=now)
                self._write({**records, identifier: found})
            return found

    def verify(self, text: str, now: datetime) -> Record:
        """The record of a token or session that is good now.

        Raises:
            NotPermitted: code CREDENTIAL_REFUSED; it never says which of the reasons it was.
            PorticoError: the records cannot be read; nobody gets in by them.
        """
        parts = _CREDENTIAL.fullmatch(text)
        record = self._all().get(parts[2]) if parts is not None else None
        right = hmac.compare_digest(
            _hash(parts[3] if parts is not None else ""), (record.secret_sha256 if record else None) or "0" * 64
        )
        if parts is None or record is None or not right or record.kind != parts[1] or record.state(now) != "open":
            raise refused()
        return record

    def certificate(self, serial: str, now: datetime) -> Record:
        """The record of a certificate that is good now. Raises as `verify`."""
        record = self._all().get(serial)
        if record is None or record.kind != "certificate" or record.state(now) != "open":
            raise refused()
        return record

    def cutoff(self, issuer: str, subject: str) -> datetime | None:
        """What was issued to a subject before this is refused."""
        record = self._all().get(subject_id(issuer, subject))
        return record.created if record is not None and record.kind == "cutoff" else None

    def all(self, now: datetime) -> list[Record]:
        """Every record, newest first. Raises PorticoError."""
        return sorted(self._live(now).values(), key=lambda r: (r.created, r.id), reverse=True)

    # For the other servers

    def digest(self, now: datetime) -> str:
        """Tells whether two servers have the same records, and nothing about them."""
        data = [record.as_data() for _, record in sorted(self._live(now).items())]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def take_over(self, theirs: Iterable[Any], now: datetime) -> bool:
        """Adds what another server has; whether anything was new. Raises PorticoError."""
        try:
            taken = [Record.from_data(item) for item in theirs]
        except (ValueError, InvalidInput) as error:
            raise InvalidInput(
                "Records of another server cannot be used",
                why=str(error)[:200],
                resolution="Use the same version of Portico on all servers",
                code="RECORDS_MALFORMED",
            ) from None
        with self._lock:
            own = self._live(now)
            merged = dict(own)
            for record in taken:
                if record.kept(now):
                    merged[record.id] = merge(merged.get(record.id), record)
            if merged == own:
                return False
            if len(merged) > MAXIMUM_RECORDS:
                raise _full(len(merged))
            self._write(merged)
        return True

    def forget(self) -> None:
        """Removes everything. Raises OSError."""
        with self._lock:
            remove_file(self.path)
            self._records = {}

    def _all(self) -> dict[str, Record]:
        with self._lock:
            if self._records is None:
                self._records = _read(self.path)
            return self._records

    def _live(self, now: datetime) -> dict[str, Record]:
        return {key: record for key, record in self._all().items() if record.kept(now)}

    def _add(self, records: dict[str, Record], record: Record) -> None:
        if len(records) >= MAXIMUM_RECORDS:
            raise _full(len(records))
        self._write({**records, record.id: record})

    def _write(self, records: dict[str, Record]) -> None:
        private_directory(self._directory)
        data = json.dumps([record.as_data() for record in records.values()]).encode()
        write_file(self.path, data)
        self._records = records


def merge(own: Record | None, other: Record) -> Record:
    """What holds of two records of one identifier: the later cutoff, the earlier revocation. Pure."""
    if own is None:
        return other
    if own.kind == "cutoff" and other.kind == "cutoff":
        return max(own, other, key=lambda record: (record.created, record.author))
    times = [record.revoked for record in (own, other) if record.revoked is not None]
    first = min(own, other, key=lambda record: (record.created, record.name, record.author))
    return replace(first, revoked=min(times) if times else None)


def subject_id(issuer: str, subject: str) -> str:
    """How a subject of an OIDC provider is called in the records."""
    return hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()


def refused() -> NotPermitted:
    """The error for credentials that are none."""
    return NotPermitted(
        "The credentials are not accepted",
        why="they are unknown, revoked, expired or wrong",
        resolution="Log in again: portico login, or ask an administrator for a new token",
        code="CREDENTIAL_REFUSED",
    )


def _read(path: Path) -> dict[str, Record]:
    try:
        data = json.loads(read_file(path, limit=MAXIMUM_FILE))
        if not isinstance(data, list):
            raise ValueError("it is no list")
        return {record.id: record for record in map(Record.from_data, data)}
    except NotFound:
        return {}
    except (ValueError, RecursionError, InvalidInput) as error:
        raise InvalidInput(
            f"{path} cannot be used",
            why=f"it is damaged ({str(error)[:100]})",
            resolution=f"Restore it from a backup; or remove it, and make new tokens: rm {path}",
            code="FILE_DAMAGED",
        ) from None


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time has no time zone")
    return found.astimezone(UTC)


def _name(text: str) -> str:
    if not 0 < len(text) <= 128 or not text.isprintable() or not text.strip():
        raise InvalidInput(
            "The name cannot be used",
            why="a name has 1 to 128 printable characters",
            resolution="Choose another one",
            code="NAME_INVALID",
        )
    return text


def _lifetime(lifetime: timedelta) -> timedelta:
    if not timedelta(0) < lifetime <= MAXIMUM_LIFETIME:
        raise InvalidInput(
            "It cannot live that long",
            why=f"a lifetime must be positive and at most {MAXIMUM_LIFETIME.days} days",
            resolution="Choose another one, for example --expires 90d",
            code="TOKEN_LIFETIME",
        )
    return lifetime


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _full(count: int) -> PorticoError:
    return LimitReached(
        "No more tokens, sessions and certificates can be made",
        why=f"there are {count}",
        resolution="Revoke those that nobody needs; they go a week after they would have ended",
        code="ACCESS_FULL",
    )
