"""Files that the settings name and that change in place: who had the former content takes the new one up.

Each server keeps a number for each file, and what it held before. A change counts one up. Another server takes it when
its own number is lower and its own content is one that the file held before: then nobody else has changed it there.
A file that is another one from the beginning (a certificate of a server's own) is left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico.errors import NotFound, PorticoError
from portico.files import read_file, write_file
from portico.server import bringing
from portico.server.peers import messages
from portico.server.peers.links import Link
from portico.settings.model import Settings
from portico.settings.named_files import NamedFile

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

FILES_NAME = "files.json"
STEADY = 1.0
"""Seconds after which a file that was changed counts as written."""
REMEMBERED = 16
"""Former contents of a file that are known; a server that missed more changes keeps what it has."""


@dataclass(frozen=True)
class Content:
    """What a file holds. `former`: SHA-256 of what it held before, newest first."""

    number: int
    sha256: str
    former: tuple[str, ...] = ()

    def followed_by(self, sha256: str) -> Content:
        """After a change of it on this server."""
        former = [self.sha256, *(item for item in self.former if item != self.sha256)]
        return Content(self.number + 1, sha256, tuple(former[:REMEMBERED]))

    def as_data(self) -> list[Any]:
        return [self.number, self.sha256, list(self.former)]

    @classmethod
    def from_data(cls, data: Any) -> Content:
        """Raises ValueError, LookupError, TypeError."""
        number, sha256, former = data
        if type(number) is not int or not 0 < number < 1 << 53 or not isinstance(sha256, str) or len(former) > 64:
            raise ValueError("it is out of its range")
        return cls(number, sha256, tuple(map(str, former)))


class Following:
    """Of one server."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._path = peers.files.directory / FILES_NAME
        self._known: dict[str, Content] | None = None
        self._looked: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._settled: dict[str, tuple[str, str]] = {}
        """What a server said and what was here when nothing was left to take from it."""
        self._lock = threading.RLock()

    def greeting(self) -> dict[str, Any]:
        """What the files hold here, in short. Blocking; never fails. Says nothing about contents."""
        try:
            return {"files": self._summary(self.look())}
        except PorticoError as error:
            log.warning("the files that the settings name are not followed: %s", error)
            return {"files": ""}

    def look(self, settings: Settings | None = None) -> dict[str, Content]:
        """The files of a document, by default the newest, as they are now; changes since the last look are counted.

        Blocking. Raises Unavailable when that cannot be kept.
        """
        with self._lock:
            if self._peers.state is None:
                self._known = None  # its file went with the cluster
                return {}
            return self._look(self._named(settings))

    def _look(self, wanted: dict[str, NamedFile]) -> dict[str, Content]:
        known = self._load()
        now: dict[str, Content] = {}
        for path, named in wanted.items():
            sha256 = self._digest(path)
            former = known.get(path)
            if sha256 is None or named.of.kind == "fetched":
                continue
            if former is None:
                now[path] = Content(1, sha256)
            else:
                now[path] = former if former.sha256 == sha256 else former.followed_by(sha256)
        kept = {path: content for path, content in known.items() if path in wanted}
        if {**kept, **now} != known:
            self._keep({**kept, **now})
        return now

    async def pull(self, link: Link, said: dict[str, Any]) -> None:
        """Takes up what changed on another server. Raises PorticoError."""
        theirs = said.get("files")
        mine = await asyncio.to_thread(self.look)
        summary = self._summary(mine)
        if not theirs or not isinstance(theirs, str) or theirs == summary:
            return
        if self._settled.get(link.name) == (theirs, summary):
            return
        if await self._fetch(link, mine, None):
            await self._peers.refresh_gateway()
        else:
            self._settled[link.name] = (theirs, summary)

    async def prepare(self, link: Link, settings: Settings) -> None:
        """Takes up what a document that comes from that server names and this one lacks. Never fails: rules judge."""
        try:
            await self._fetch(link, await asyncio.to_thread(self.look, settings), settings)
        except PorticoError as error:
            log.warning("server=%s brings no files: %s", link.name, error)

    async def _fetch(self, link: Link, mine: dict[str, Content], settings: Settings | None) -> bool:
        have = {path: [content.number, content.sha256] for path, content in mine.items()}
        data = await link.caller.post("/v1/files", {"have": have})
        items = messages.items(data if isinstance(data, dict) else {}, "files", limit=bringing.MAXIMUM_FILES)
        taken = [await asyncio.to_thread(self._take, item, link.name, self._named(settings)) for item in items]
        return any(taken)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The files that a server of the cluster lacks, or has a former content of. Blocking."""
        have, named = messages.section(body, "have"), self._named()
        chosen: dict[str, Content] = {}
        for path, content in self.look().items():
            theirs = have.get(path)
            if theirs is None or (
                isinstance(theirs, list)
                and len(theirs) == 2
                and type(theirs[0]) is int
                and theirs[0] < content.number
                and theirs[1] in content.former
            ):
                chosen[path] = content
        files = bringing.offer([named[path] for path in chosen])
        return {"files": [{**item, "content": chosen[item["path"]].as_data()} for item in files]}

    def _take(self, item: Any, sender: str, wanted: dict[str, NamedFile]) -> bool:
        with self._lock:
            return self._peers.state is not None and self._taken(item, sender, wanted)

    def _taken(self, item: Any, sender: str, wanted: dict[str, NamedFile]) -> bool:
        named, data = bringing.file_of(wanted.get, item)
        try:
            content = Content.from_data(item.get("content"))
        except (ValueError, LookupError, TypeError):
            raise messages.malformed("what a file held before is malformed") from None
        if content.sha256 != bringing.digest(data):
            return False  # it changed while it was read; the next greeting says so
        known = self._load()
        own, present = known.get(named.path), bringing.present_digest(named.path)
        directory = self._peers.files.directory
        if present is None:
            bringing.note(directory, {named.path: content.sha256})
            bringing.take_one(named, data)
        elif own is not None and own.sha256 == present and own.number < content.number and present in content.former:
            if named.path in bringing.brought(directory):
                bringing.note(directory, {named.path: content.sha256})
            bringing.replace(named, data)
        else:
            return False
        log.info("server=%s file=%s setting=%s taken up", sender, named.path, named.setting)
        self._keep({**known, named.path: replace(content, former=content.former[:REMEMBERED])})
        return True

    def _named(self, settings: Settings | None = None) -> dict[str, NamedFile]:
        document = settings if settings is not None else self._peers.document
        return bringing.carried(document, self._peers.host.state) if document is not None else {}

    def _digest(self, path: str) -> str | None:
        """The content's SHA-256; read again only when the file looks changed."""
        try:
            found = Path(path).stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            former = self._looked.get(path)
            if former is not None and 0 <= time.time() - found.st_mtime < STEADY:
                return former[1]  # somebody may still be writing it
            if former is None or former[0] != mark:
                sha256 = bringing.present_digest(path)
                if sha256 is None:
                    return None
                former = self._looked[path] = (mark, sha256)
        except (OSError, ValueError, PorticoError):
            return None  # the rules and the certificates' warnings say what is wrong with it
        return former[1]

    @staticmethod
    def _summary(contents: dict[str, Content]) -> str:
        rows = [[path, content.number, content.sha256] for path, content in sorted(contents.items())]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def _load(self) -> dict[str, Content]:
        if self._known is None:
            try:
                data = json.loads(read_file(self._path))
                self._known = {str(path): Content.from_data(item) for path, item in data.items()}
            except NotFound:
                self._known = {}
            except (PorticoError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                log.warning("file=%s cannot be read: %s", self._path, type(error).__name__)
                self._known = {}
        return self._known

    def _keep(self, known: dict[str, Content]) -> None:
        write_file(self._path, json.dumps({path: content.as_data() for path, content in known.items()}).encode())
        self._known = known
