"""Where a parser is in a script's text: characters, blanks, places, and what to say of them."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from portico.management.cmdlets.errors import CmdletError, IncompleteScript, Place

MAXIMUM_DEPTH: Final = 40
"""Brackets within brackets."""

SINGLE: Final = "'\u2018\u2019\u201a\u201b"
DOUBLE: Final = '"\u201c\u201d\u201e'
DASH: Final = "-\u2013\u2014\u2015"
BLANK: Final = " \t\r\v\f\u00a0\u200b\ufeff"
STOPS: Final = "|;&(){},\n" + BLANK
ESCAPES: Final = {"0": "\0", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "e": "\x1b"}
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", flags=re.ASCII)
PARAMETER: Final = re.compile(r"[A-Za-z_?][A-Za-z0-9_]*", flags=re.ASCII)
TYPE: Final = re.compile(r"\[([A-Za-z][A-Za-z0-9_.]*(?:\[\])?)\]", flags=re.ASCII)
_HINT: Final = "Correct the line; docs/cmdlets.md shows what is taken"


class Cursor:
    """A place in a text, and how many brackets are open there."""

    def __init__(self, text: str, at: int = 0, depth: int = 0) -> None:
        self.text = text
        self.at = at
        self.depth = depth

    def place(self, at: int | None = None) -> Place:
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at)
        return Place(line + 1, at - (self.text.rfind("\n", 0, at) + 1) + 1)

    def peek(self, offset: int = 0) -> str:
        at = self.at + offset
        return self.text[at] if at < len(self.text) else ""

    def starts(self, what: str) -> bool:
        return self.text.startswith(what, self.at)

    def fail(self, what: str, error_id: str, at: int | None = None, *, resolution: str = "") -> NoReturn:
        raise CmdletError(
            what, code="CMDLET_SYNTAX", error_id=error_id, place=self.place(at), resolution=resolution or _HINT
        )

    def incomplete(self, what: str, error_id: str, at: int) -> NoReturn:
        raise IncompleteScript(
            what, code="CMDLET_SYNTAX", error_id=error_id, place=self.place(at), resolution="Complete it"
        )

    def blanks(self, *, lines: bool = False) -> None:
        """Skips blanks, comments and continued lines; with `lines` also the ends of lines."""
        while True:
            char = self.peek()
            if char and (char in BLANK or (lines and char == "\n")):
                self.at += 1
            elif char == "`" and self._continued():
                continue
            elif char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.starts("<#"):
                end = self.text.find("#>", self.at)
                if end < 0:
                    self.incomplete(
                        "The terminator '#>' is missing from the multiline comment",
                        "MissingTerminatorMultiLineComment",
                        self.at,
                    )
                self.at = end + 2
            else:
                return

    def _continued(self) -> bool:
        """Skips a backtick and the end of its line. Blanks between them are forgiven: pasted texts have them."""
        match = re.compile(rf"`[{BLANK}]*(\n|\Z)").match(self.text, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            self.fail(f"There are more than {MAXIMUM_DEPTH} brackets within brackets", "TooDeep")

    def _word(self, at: int) -> str:
        end = at
        while end < len(self.text) and end - at < 60 and self.text[end] not in STOPS:
            end += 1
        return self.text[at : max(end, at + 1)]
