"""Expressions of PowerShell: operators, terms, members, brackets, hashtables and the three kinds of strings."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from portico.management.cmdlets.cursor import (
    BLANK,
    DASH,
    DOUBLE,
    ESCAPES,
    MAXIMUM_DEPTH,
    NAME,
    PARAMETER,
    SINGLE,
    TYPE,
    Cursor,
)
from portico.management.cmdlets.numbers import number
from portico.management.cmdlets.syntax import (
    ArrayOf,
    Binary,
    Cast,
    Constant,
    Expandable,
    Expression,
    Hashtable,
    Index,
    Member,
    Pipeline,
    ScriptBlock,
    Statement,
    SubExpression,
    Unary,
    Variable,
)

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


class Expressions(Cursor, ABC):
    """A parser of expressions. The statements within their brackets are the subclass's."""

    @abstractmethod
    def statements(self, closing: str) -> list[Statement]:
        """Up to the closing bracket, which is left, or the end of the text."""

    @abstractmethod
    def pipeline(self, closing: str) -> Pipeline:
        """A pipeline within this closing bracket."""

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
            if char in DASH and PARAMETER.match(self.text, self.at + 1):
                return None
            plain = "-" if char in DASH else char
            if plain in _LEVELS[level]:
                self.at += 1
                return plain
            return None
        if char not in DASH:
            return None
        match = PARAMETER.match(self.text, self.at + 1)
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
            if char and char in DASH:
                match = PARAMETER.match(self.text, self.at + 1)
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
            if char == "[" and (match := TYPE.match(self.text, self.at)):
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
        if char in SINGLE:
            return Constant(self.place(start), self.single())
        if char in DOUBLE:
            return self.double()
        if char == "@" and self.peek(1) and (self.peek(1) in SINGLE or self.peek(1) in DOUBLE):
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
        sign = char in DASH
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
            match = NAME.match(self.text, self.at + 1) if char == "." else None
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
            match = NAME.match(self.text, self.at)
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
            if char in SINGLE:
                if self.peek() and self.peek() in SINGLE:  # doubled: one of them
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
            if char in DOUBLE:
                self.at += 1
                if not self.peek() or self.peek() not in DOUBLE:
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
            return text + ESCAPES.get(follows, follows)
        if char == "$" and (variable := self._variable()) is not None:
            parts += [text, variable]
            return ""
        self.at += 1
        return text + char

    def here_string(self) -> Expression:
        start = self.at
        quotes = SINGLE if self.peek(1) in SINGLE else DOUBLE
        head = re.compile(rf"@[{quotes}][{BLANK}]*\n").match(self.text, self.at)
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
        if quotes is SINGLE:
            return Constant(self.place(start), text)
        inner = type(self)(self.text[: max(end.start(), head.end())], head.end(), self.depth)
        parts, rest = list[str | Expression](), ""
        while inner.peek():
            rest = inner._expanded(parts, rest)
        return self._expandable(start, parts, rest)

    def _expandable(self, start: int, parts: list[str | Expression], text: str) -> Expression:
        if not parts:
            return Constant(self.place(start), text)
        return Expandable(self.place(start), tuple(part for part in (*parts, text) if part != ""))
