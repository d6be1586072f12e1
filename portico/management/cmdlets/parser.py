"""PowerShell's syntax as far as administrators paste it for these cmdlets. Pure, bounded, evaluates nothing.

Statements, pipelines, commands with parameters, strings (single, double, here-strings), numbers with suffixes, arrays,
comma lists, hashtables, script blocks, variables, members, `$()`, casts and operators. Typographic quotes and dashes
count as the plain ones, as in PowerShell: texts come from web pages. Beyond PowerShell, a line that begins with a
parameter goes on with the command above it, as lines are broken so on web pages, and such a line means nothing else.

What a script could do besides (functions, loops, conditions, redirection) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NoReturn

from portico.management.cmdlets.errors import CmdletError, IncompleteScript, Place
from portico.management.cmdlets.syntax import (
    Argument,
    ArrayOf,
    Assignment,
    Binary,
    Cast,
    Command,
    Constant,
    Expandable,
    Expression,
    Hashtable,
    Index,
    Member,
    NamedArgument,
    Pipeline,
    ScriptBlock,
    Splat,
    Statement,
    SubExpression,
    Unary,
    Variable,
)

MAXIMUM_SIZE: Final = 256 << 10
"""Characters of a script."""

MAXIMUM_DEPTH: Final = 40
"""Brackets within brackets."""

_SINGLE: Final = "'\u2018\u2019\u201a\u201b"
_DOUBLE: Final = '"\u201c\u201d\u201e'
_DASH: Final = "-\u2013\u2014\u2015"
_BLANK: Final = " \t\r\v\f\u00a0\u200b\ufeff"
_STOPS: Final = "|;&(){},\n" + _BLANK
_ESCAPES: Final = {"0": "\0", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "e": "\x1b"}
_KEYWORDS: Final = frozenset(
    (
        *(
            "begin",
            "break",
            "catch",
            "class",
            "continue",
            "data",
            "do",
            "dynamicparam",
            "else",
            "elseif",
            "end",
            "enum",
        ),
        *("exit", "filter", "finally", "for", "foreach", "function", "if", "param", "process", "return", "switch"),
        *("throw", "trap", "try", "until", "using", "while", "workflow"),
    )
)
_NUMBER: Final = re.compile(
    r"([+-]?)(?:0x([0-9a-f]{1,15})|([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})(?:e([+-]?[0-9]{1,2}))?)(l|d)?(kb|mb|gb|tb|pb)?",
    flags=re.ASCII | re.IGNORECASE,
)
_MULTIPLIERS: Final = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", flags=re.ASCII)
_PARAMETER: Final = re.compile(r"[A-Za-z_?][A-Za-z0-9_]*", flags=re.ASCII)
_TYPE: Final = re.compile(r"\[([A-Za-z][A-Za-z0-9_.]*(?:\[\])?)\]", flags=re.ASCII)
_COMMAND: Final = re.compile(r"[A-Za-z?%][A-Za-z0-9_.\\?%-]*", flags=re.ASCII)

_LEVELS: Final = (
    frozenset({"and", "or", "xor"}),
    frozenset(
        {
            *(case + name for case in ("", "i", "c") for name in ("eq", "ne", "gt", "ge", "lt", "le")),
            *(case + name for case in ("", "i", "c") for name in ("like", "notlike", "match", "notmatch")),
            *("contains", "notcontains", "in", "notin", "join", "is"),
        }
    ),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)


def number(text: str) -> int | float | None:
    """The number a word is: `10`, `1.5`, `0x1F`, `2GB`; None for another word."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    value: int | float
    if match[2]:
        value = int(match[2], 16)
    elif match[4] or "." in match[3]:
        value = float(f"{match[3]}e{match[4] or 0}")
    else:
        value = int(match[3])
    value *= _MULTIPLIERS[match[6].lower()] if match[6] else 1
    return -value if match[1] == "-" else value


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


class _Parser:
    def __init__(self, text: str, at: int = 0, depth: int = 0) -> None:
        self.text = text
        self.at = at
        self.depth = depth

    # Characters

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
            if char and (char in _BLANK or (lines and char == "\n")):
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
        match = re.compile(rf"`[{_BLANK}]*(\n|\Z)").match(self.text, self.at)
        if match is None:
            return False
        self.at = match.end()
        return True

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            self.fail(f"There are more than {MAXIMUM_DEPTH} brackets within brackets", "TooDeep")

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
        if char == "&" or (char == "." and self.peek(1) in _BLANK):
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
        while (dash := self.peek()) and dash in _DASH[1:]:  # a typographic dash within the name
            rest = _COMMAND.match(self.text, self.at + 1)
            if rest is None:
                break
            name, self.at = f"{name}-{rest[0]}", rest.end()
        if self.peek() and self.peek() not in _STOPS and self.peek() != "`":
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
        if self.peek() and self.peek() in _DASH and _PARAMETER.match(self.text, self.at + 1):
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
        if char in _DASH and (match := _PARAMETER.match(self.text, self.at + 1)):
            self.at = match.end()
            if self.peek() == ":":
                self.at += 1
                self.blanks()
                if not self.peek() or self.peek() in "|;\n)}":
                    self.fail(f"The parameter -{match[0]} has no argument after its colon", "MissingArgument", start)
                return NamedArgument(self.place(start), match[0], self.value())
            return NamedArgument(self.place(start), match[0])
        if char == "@" and (match := _NAME.match(self.text, self.at + 1)):
            self.at = match.end()
            return Splat(self.place(start), match[0])
        return self.value()

    def value(self) -> Expression:
        """One argument: a term, or several with commas between them."""
        return self.separated(self.argument_term, "Missing argument in parameter list", "MissingArgument")

    def separated(self, item: Callable[[], Expression], missing: str, identifier: str) -> Expression:
        """One item, or several with commas between them. `missing` and `identifier`: when nothing follows a comma."""
        start = self.at
        items = [item()]
        while True:
            here = self.at
            self.blanks()
            if self.peek() != ",":
                self.at = here
                break
            comma = self.at
            self.at += 1
            self.blanks(lines=True)
            if not self.peek():
                self.incomplete(missing, identifier, comma)
            if self.peek() in "|;),}":
                self.fail(missing, identifier, comma)
            items.append(item())
        return items[0] if len(items) == 1 else ArrayOf(self.place(start), tuple(items))

    def argument_term(self) -> Expression:
        char = self.peek()
        if char in _SINGLE or char in _DOUBLE or char in "($@{[":
            if char == "[" and _TYPE.match(self.text, self.at) is None:
                return self.bare()
            if char == "@" and self.peek(1) not in "({'\"" + _SINGLE + _DOUBLE:
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
        while (char := self.peek()) and char not in _STOPS:
            if char == "`" and self.at + 1 < len(self.text):
                if self.peek(1) == "\n":
                    break
                text += _ESCAPES.get(self.peek(1), self.peek(1))
                self.at += 2
            elif char in _SINGLE or char in _DOUBLE:
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

    def _word(self, at: int) -> str:
        end = at
        while end < len(self.text) and end - at < 60 and self.text[end] not in _STOPS:
            end += 1
        return self.text[at : max(end, at + 1)]

    # Expressions

    def expression(self, level: int = 0) -> Expression:
        if level == len(_LEVELS):
            return self.comma_list()
        start = self.at
        left = self.expression(level + 1)
        while True:
            here = self.at
            self.blanks()
            operator = self._operator(level)
            if operator is None:
                self.at = here
                return left
            self.blanks(lines=True)
            if not self.peek():
                self.incomplete(
                    f"You must provide a value expression following the '{operator}' operator",
                    "ExpectedValueExpression",
                    here,
                )
            left = Binary(self.place(start), operator, left, self.expression(level + 1))

    def _operator(self, level: int) -> str | None:
        char = self.peek()
        if not char:
            return None
        if level >= 2:
            if char in _DASH and _PARAMETER.match(self.text, self.at + 1):
                return None
            plain = "-" if char in _DASH else char
            if plain in _LEVELS[level]:
                self.at += 1
                return plain
            return None
        if char not in _DASH:
            return None
        match = _PARAMETER.match(self.text, self.at + 1)
        if match is None or match[0].lower() not in _LEVELS[level]:
            if level == 0 and match is not None and match[0].lower() not in _LEVELS[1]:
                self.fail(f"Unexpected token '-{match[0]}' in expression or statement", "UnexpectedToken")
            return None
        self.at = match.end()
        return f"-{match[0].lower()}"

    def comma_list(self) -> Expression:
        return self.separated(self.unary, "Missing expression after ','", "MissingExpressionAfterToken")

    def unary(self) -> Expression:
        self.enter()
        try:
            start, char = self.at, self.peek()
            if char == "!":
                self.at += 1
                self.blanks()
                return Unary(self.place(start), "-not", self.unary())
            if char and char in _DASH:
                match = _PARAMETER.match(self.text, self.at + 1)
                if match is not None:
                    if match[0].lower() != "not":
                        self.fail("Missing expression after unary operator '-'", "MissingExpressionAfterOperator")
                    self.at = match.end()
                    self.blanks()
                    return Unary(self.place(start), "-not", self.unary())
                if number(f"-{self._number_text(self.at + 1)}") is None:
                    self.at += 1
                    self.blanks()
                    return Unary(self.place(start), "-", self.unary())
            if char == "[" and (match := _TYPE.match(self.text, self.at)):
                self.at = match.end()
                self.blanks()
                return Cast(self.place(start), match[1].lower(), self.unary())
            return self.postfix(self.primary())
        finally:
            self.depth -= 1

    def _number_text(self, at: int) -> str:
        match = re.compile(r"(?:[0-9]|\.[0-9])[0-9A-Za-z.]*", flags=re.ASCII).match(self.text, at)
        return match[0] if match is not None else ""

    def primary(self) -> Expression:  # noqa: RET503 (fail raises)
        start, char = self.at, self.peek()
        if not char:
            self.incomplete("An expression was expected", "ExpressionExpected", start)
        if char in _SINGLE:
            return Constant(self.place(start), self.single())
        if char in _DOUBLE:
            return self.double()
        if char == "@" and self.peek(1) and (self.peek(1) in _SINGLE or self.peek(1) in _DOUBLE):
            return self.here_string()
        if char == "@" and self.peek(1) == "{":
            return self.hashtable()
        if char == "@" and self.peek(1) == "(":
            self.at += 1
            return SubExpression(self.place(start), self.bracketed("(", ")"), array=True)
        if char == "(":
            found = self.bracketed("(", ")")
            if not found:
                self.fail("An expression was expected after '('", "ExpectedExpression", start)
            return SubExpression(self.place(start), found)
        if char == "{":
            return ScriptBlock(self.place(start), self.bracketed("{", "}"))
        if char == "$":
            found_variable = self._variable()
            if found_variable is None:
                self.fail("Unexpected token '$' in expression or statement", "UnexpectedToken")
            return found_variable
        sign = char in _DASH
        text = self._number_text(self.at + (1 if sign else 0))
        value = number(("-" if sign else "") + text) if text else None
        if value is not None:
            self.at += len(text) + (1 if sign else 0)
            return Constant(self.place(start), value)
        self.fail(f"Unexpected token '{self._word(start)}' in expression or statement", "UnexpectedToken")

    def _variable(self) -> Expression | None:
        """`$name`, `${name}`, `$_`, `$(...)`; None for a dollar alone."""
        start = self.at
        if self.peek(1) == "(":
            self.at += 1
            return SubExpression(self.place(start), self.bracketed("(", ")"))
        if self.peek(1) == "{":
            end = self.text.find("}", self.at)
            if end < 0:
                self.incomplete("Use braces around a variable's name: the closing one is missing", "Missing", start)
            name = self.text[self.at + 2 : end]
            self.at = end + 1
            return Variable(self.place(start), name)
        match = re.compile(r"\$((?:env:|script:|global:|local:)?[A-Za-z_][A-Za-z0-9_]*)", flags=re.ASCII | re.I).match(
            self.text, self.at
        )
        if match is None:
            return None
        self.at = match.end()
        return Variable(self.place(start), match[1])

    def postfix(self, target: Expression) -> Expression:
        steps = 0
        while True:
            start, char = self.at, self.peek()
            match = _NAME.match(self.text, self.at + 1) if char == "." else None
            if match is not None:
                self.at = match.end()
                arguments = self._call_arguments() if self.peek() == "(" else None
                target = Member(self.place(start), target, match[0], arguments)
            elif char == "[":
                self.at += 1
                self.blanks(lines=True)
                self.enter()
                index = self.expression()
                self.depth -= 1
                self.blanks(lines=True)
                if self.peek() != "]":
                    self.fail("Missing ] at end of attribute or type literal", "EndSquareBracketExpected", start)
                self.at += 1
                target = Index(self.place(start), target, index)
            else:
                return target
            steps += 1
            if steps > MAXIMUM_DEPTH:
                self.fail(f"There are more than {MAXIMUM_DEPTH} members of members", "TooDeep", start)

    def _call_arguments(self) -> tuple[Expression, ...]:
        start = self.at
        self.at += 1
        self.blanks(lines=True)
        if self.peek() == ")":
            self.at += 1
            return ()
        self.enter()
        found = self.expression()
        self.depth -= 1
        self.blanks(lines=True)
        if self.peek() != ")":
            self.incomplete("Missing ')' in method call", "MissingEndParenthesisInMethodCall", start)
        self.at += 1
        return found.items if isinstance(found, ArrayOf) else (found,)

    def bracketed(self, opening: str, closing: str) -> tuple[Statement, ...]:
        start = self.at
        self.at += 1
        self.enter()
        found = self.statements(closing)
        self.depth -= 1
        if self.peek() != closing:
            if closing == ")":
                self.incomplete("Missing closing ')' in expression", "MissingEndParenthesisInExpression", start)
            self.incomplete("Missing closing '}' in statement block or type definition", "MissingEndCurlyBrace", start)
        self.at += 1
        return tuple(found)

    def hashtable(self) -> Expression:
        start = self.at
        self.at += 2
        self.enter()
        entries: list[tuple[Expression, Expression]] = []
        while True:
            self.blanks(lines=True)
            while self.peek() == ";":
                self.at += 1
                self.blanks(lines=True)
            if not self.peek():
                self.incomplete("The hash literal was incomplete", "IncompleteHashLiteral", start)
            if self.peek() == "}":
                self.at += 1
                self.depth -= 1
                return Hashtable(self.place(start), tuple(entries))
            key_at = self.at
            match = _NAME.match(self.text, self.at)
            key: Expression
            if match is not None:
                self.at = match.end()
                key = Constant(self.place(key_at), match[0])
            else:
                key = self.primary()
            self.blanks()
            if self.peek() != "=":
                self.fail("Missing '=' operator after key in hash literal", "MissingEqualsInHashLiteral", key_at)
            self.at += 1
            self.blanks(lines=True)
            if not self.peek():
                self.incomplete("The hash literal was incomplete", "IncompleteHashLiteral", start)
            statement = self.pipeline("}")
            entries.append((key, SubExpression(statement.place, (statement,))))

    # Strings

    def single(self) -> str:
        start = self.at
        self.at += 1
        text = ""
        while True:
            char = self.peek()
            if not char:
                self.incomplete("The string is missing the terminator: '", "TerminatorExpectedAtEndOfString", start)
            self.at += 1
            if char in _SINGLE:
                if self.peek() and self.peek() in _SINGLE:  # doubled: one of them
                    self.at += 1
                else:
                    return text
            text += char

    def double(self) -> Expression:
        start = self.at
        self.at += 1
        parts, text = list[str | Expression](), ""
        while True:
            char = self.peek()
            if not char:
                self.incomplete('The string is missing the terminator: "', "TerminatorExpectedAtEndOfString", start)
            if char in _DOUBLE:
                self.at += 1
                if not self.peek() or self.peek() not in _DOUBLE:
                    return self._expandable(start, parts, text)
                text += char
                self.at += 1
            else:
                text = self._expanded(parts, text)

    def _expanded(self, parts: list[str | Expression], text: str) -> str:
        """Takes one character, escape or variable of a double-quoted text."""
        char = self.peek()
        if char == "`" and self.peek(1):
            follows = self.peek(1)
            self.at += 2
            return text + _ESCAPES.get(follows, follows)
        if char == "$" and (variable := self._variable()) is not None:
            parts += [text, variable]
            return ""
        self.at += 1
        return text + char

    def here_string(self) -> Expression:
        start = self.at
        quotes = _SINGLE if self.peek(1) in _SINGLE else _DOUBLE
        head = re.compile(rf"@[{quotes}][{_BLANK}]*\n").match(self.text, self.at)
        if head is None:
            self.fail(
                "No characters are allowed after a here-string header but before the end of the line",
                "UnexpectedCharactersAfterHereStringHeader",
            )
        end = re.compile(rf"(?:\r?\n|(?<=\n))[{quotes}]@").search(self.text, head.end() - 1)
        if end is None:
            self.incomplete(
                f"The string is missing the terminator: {quotes[0]}@", "TerminatorExpectedAtEndOfString", start
            )
        text = self.text[head.end() : max(end.start(), head.end())]
        self.at = end.end()
        if quotes is _SINGLE:
            return Constant(self.place(start), text)
        inner = _Parser(self.text[: max(end.start(), head.end())], head.end(), self.depth)
        parts, rest = list[str | Expression](), ""
        while inner.peek():
            rest = inner._expanded(parts, rest)
        return self._expandable(start, parts, rest)

    def _expandable(self, start: int, parts: list[str | Expression], text: str) -> Expression:
        if not parts:
            return Constant(self.place(start), text)
        return Expandable(self.place(start), tuple(part for part in (*parts, text) if part != ""))


_HINT: Final = "Correct the line; docs/cmdlets.md shows what is taken"
