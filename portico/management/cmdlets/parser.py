"""PowerShell's syntax as far as administrators paste it for these cmdlets. Pure, bounded, evaluates nothing.

Statements, pipelines, commands with parameters, strings (single, double, here-strings), numbers with suffixes, arrays,
comma lists, hashtables, script blocks, variables, members, `$()`, casts and operators. Typographic quotes and dashes
count as the plain ones, as in PowerShell: texts come from web pages. Beyond PowerShell, a line that begins with a
parameter goes on with the command above it, as lines are broken so on web pages, and such a line means nothing else.

What a script could do besides (functions, loops, conditions, redirection) is refused by name.
"""

from __future__ import annotations

import re
from typing import Final

from portico.management.cmdlets.cursor import BLANK, DASH, DOUBLE, ESCAPES, NAME, PARAMETER, SINGLE, STOPS, TYPE
from portico.management.cmdlets.errors import CmdletError
from portico.management.cmdlets.expressions import Expressions
from portico.management.cmdlets.numbers import number
from portico.management.cmdlets.syntax import (
    Argument,
    Assignment,
    Command,
    Constant,
    Expandable,
    Expression,
    NamedArgument,
    Pipeline,
    Splat,
    Statement,
)

MAXIMUM_SIZE: Final = 256 << 10
"""Characters of a script."""

_KEYWORDS: Final = frozenset(
    {
        *("begin", "break", "catch", "class", "continue", "data", "do", "dynamicparam", "else", "elseif", "end"),
        *("enum", "exit", "filter", "finally", "for", "foreach", "function", "if", "param", "process", "return"),
        *("switch", "throw", "trap", "try", "until", "using", "while", "workflow"),
    }
)
_COMMAND: Final = re.compile(r"[A-Za-z?%][A-Za-z0-9_.\\?%-]*", flags=re.ASCII)


def parse(text: str) -> tuple[Statement, ...]:
    """The statements of a script.

    Raises:
        CmdletError: with PowerShell's words and the place; IncompleteScript when the text only ends too early.
    """
    if len(text) > MAXIMUM_SIZE:
        raise CmdletError(
            "The script is too long",
            code="CMDLET_TOO_LONG",
            why=f"it has {len(text)} characters, {MAXIMUM_SIZE} are taken",
            resolution="Divide it into several files",
        )
    parser = _Parser(text)
    found = parser.statements("")
    return tuple(found)


class _Parser(Expressions):
    # Statements

    def statements(self, closing: str) -> list[Statement]:
        """Up to the closing bracket, which is left, or the end of the text."""
        found: list[Statement] = []
        while True:
            self.blanks(lines=True)
            while self.peek() == ";":
                self.at += 1
                self.blanks(lines=True)
            char = self.peek()
            if not char or (closing and char == closing):
                return found
            if char in ")}":
                self.fail(f"Unexpected token '{char}' in expression or statement", "UnexpectedToken")
            found.append(self.statement(closing))
            self.blanks()
            char = self.peek()
            if char and char not in "\n;" and not (closing and char == closing):
                self.fail(f"Unexpected token '{self._word(self.at)}' in expression or statement", "UnexpectedToken")

    def statement(self, closing: str) -> Statement:
        start = self.at
        if self.peek() == "$" and (match := re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)").match(self.text, self.at)):
            self.at = match.end()
            self.blanks()
            if self.peek() == "=" and self.peek(1) != "=":
                self.at += 1
                self.blanks(lines=True)
                if not self.peek() or self.peek() in ";\n":
                    self.incomplete("You must provide a value expression following the '=' operator", "Missing", start)
                return Assignment(self.place(start), match[1], self.pipeline(closing))
            self.at = start
        return self.pipeline(closing)

    def pipeline(self, closing: str) -> Pipeline:
        start = self.at
        stages = [self.stage(first=True)]
        while True:
            self.blanks()
            if self.peek() == "\n":  # a line may begin with the pipe
                here = self.at
                self.blanks(lines=True)
                if self.peek() != "|":
                    self.at = here
                    break
            if self.peek() != "|":
                break
            pipe = self.at
            self.at += 1
            self.blanks(lines=True)
            if not self.peek():
                self.incomplete("An empty pipe element is not allowed", "EmptyPipeElement", pipe)
            if self.peek() in "|;)}":
                self.fail("An empty pipe element is not allowed", "EmptyPipeElement", pipe)
            stages.append(self.stage(first=False))
        return Pipeline(self.place(start), tuple(stages))

    def stage(self, *, first: bool) -> Command | Expression:
        char = self.peek()
        if char == "|":
            self.fail("An empty pipe element is not allowed", "EmptyPipeElement")
        if char == "&" or (char == "." and self.peek(1) in BLANK):
            self.fail(
                f"The operator '{char}' is not supported here",
                "NotSupported",
                resolution="Write the cmdlet's name without it",
            )
        match = _COMMAND.match(self.text, self.at)
        if match is not None and number(self._word(self.at)) is None:
            name = match[0].replace("\u2013", "-")
            if name.lower() in _KEYWORDS:
                self.fail(
                    f"The keyword '{name}' is not supported here",
                    "ReservedKeywordNotAllowed",
                    resolution="Only cmdlets, pipelines, variables and expressions are run; docs/cmdlets.md lists them",
                )
            return self.command(match)
        if not first:
            self.fail(
                "Expressions are only allowed as the first element of a pipeline", "ExpressionsMustBeFirstInPipeline"
            )
        return self.expression()

    def command(self, match: re.Match[str]) -> Command:
        start = self.at
        self.at = match.end()
        name = match[0]
        while (dash := self.peek()) and dash in DASH[1:]:  # a typographic dash within the name
            rest = _COMMAND.match(self.text, self.at + 1)
            if rest is None:
                break
            name, self.at = f"{name}-{rest[0]}", rest.end()
        if self.peek() and self.peek() not in STOPS and self.peek() != "`":
            self.fail(f"Unexpected token '{self._word(start)}' in expression or statement", "UnexpectedToken", start)
        arguments: list[Argument] = []
        while True:
            self.blanks()
            if self.peek() == "\n" and not self._parameter_on_next_line():
                break
            char = self.peek()
            if not char or char in "|;\n)}":
                break
            arguments.append(self.argument())
        return Command(self.place(start), name, tuple(arguments))

    def _parameter_on_next_line(self) -> bool:
        here = self.at
        self.blanks(lines=True)
        if self.peek() and self.peek() in DASH and PARAMETER.match(self.text, self.at + 1):
            return True
        self.at = here
        return False

    # Arguments

    def argument(self) -> Argument:
        start = self.at
        char = self.peek()
        if char in ">&" or re.compile(r"[1-6*]>").match(self.text, self.at):
            self.fail(
                "Redirection is not supported here",
                "NotSupported",
                resolution="Redirect the output of the portico command in the shell",
            )
        if char in DASH and (match := PARAMETER.match(self.text, self.at + 1)):
            self.at = match.end()
            if self.peek() == ":":
                self.at += 1
                self.blanks()
                if not self.peek() or self.peek() in "|;\n)}":
                    self.fail(f"The parameter -{match[0]} has no argument after its colon", "MissingArgument", start)
                return NamedArgument(self.place(start), match[0], self.value())
            return NamedArgument(self.place(start), match[0])
        if char == "@" and (match := NAME.match(self.text, self.at + 1)):
            self.at = match.end()
            return Splat(self.place(start), match[0])
        return self.value()

    def value(self) -> Expression:
        """One argument: a term, or several with commas between them."""
        return self.separated(self.argument_term, "Missing argument in parameter list", "MissingArgument")

    def argument_term(self) -> Expression:
        char = self.peek()
        if char in SINGLE or char in DOUBLE or char in "($@{[":
            if char == "[" and TYPE.match(self.text, self.at) is None:
                return self.bare()
            if char == "@" and self.peek(1) not in "({'\"" + SINGLE + DOUBLE:
                return self.bare()
            if char == "[":
                return self.bare()
            return self.postfix(self.primary())
        if char == ",":
            self.fail("Missing argument in parameter list", "MissingArgument")
        return self.bare()

    def bare(self) -> Expression:
        """A word without quotes; a number when it looks like one. Variables in it are expanded."""
        start = self.at
        parts: list[str | Expression] = []
        text = ""
        while (char := self.peek()) and char not in STOPS:
            if char == "`" and self.at + 1 < len(self.text):
                if self.peek(1) == "\n":
                    break
                text += ESCAPES.get(self.peek(1), self.peek(1))
                self.at += 2
            elif char in SINGLE or char in DOUBLE:
                inner = self.primary()
                parts += [text, inner]
                text = ""
            elif char == "$" and (variable := self._variable()) is not None:
                parts += [text, variable]
                text = ""
            else:
                text += char
                self.at += 1
        if self.at == start:
            self.fail(f"Unexpected token '{self._word(start)}' in expression or statement", "UnexpectedToken")
        if parts:
            return Expandable(self.place(start), tuple(part for part in (*parts, text) if part != ""))
        value = number(text)
        if value is not None:
            return Constant(self.place(start), value)
        return Constant(self.place(start), text, bare=True)
