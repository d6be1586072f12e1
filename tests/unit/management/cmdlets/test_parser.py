"""PowerShell's syntax: vectors, errors with their places, and texts of any kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portico.management.cmdlets.cmdlet import Context
from portico.management.cmdlets.errors import CmdletError, IncompleteScript
from portico.management.cmdlets.numbers import number
from portico.management.cmdlets.parser import MAXIMUM_SIZE, parse
from portico.management.cmdlets.session import Session
from portico.management.cmdlets.syntax import Command, NamedArgument, Pipeline
from portico.management.scripts import array, quoted


class Silent:
    def __init__(self) -> None:
        self.said: list[str] = []

    def verbose(self, text: str) -> None:
        self.said.append(text)

    warning = information = verbose

    def error(self, error: Exception) -> None:
        self.said.append(str(error))

    def confirm(self, question: str) -> None:
        raise AssertionError(question)


def _nowhere() -> Any:
    raise AssertionError("nothing is to be asked of a server")


def run(text: str) -> list[Any]:
    with Session(Context(_nowhere, Silent(), "test")) as session:
        return [item for found in session.results(text) for item in found]


def command(text: str) -> Command:
    (statement,) = parse(text)
    assert isinstance(statement, Pipeline)
    first = statement.stages[0]
    assert isinstance(first, Command)
    return first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'it''s'", ["it's"]),
        ('"a`tb`"c""d"', ['a\tb"c"d']),
        ('$x = 5; "$x and $($x + 1) and ${x}y"', ["5 and 6 and 5y"]),
        ("@'\nline 'one'\n$x\n'@", ["line 'one'\n$x"]),
        ('$n = "b"\n@"\na $n\n"@', ["a b"]),
        ("@('a','b')", ["a", "b"]),
        ("'a', 'b',\n 'c'", ["a", "b", "c"]),
        ("@()", []),
        ("(1 + 2) * 3 - 4 / 2", [7]),
        ("2KB, 1.5, -3, 0x1F", [2048, 1.5, -3, 31]),
        ("$true -and -not $false -or $null", [True]),
        ("1, 2, 3, 4 -gt 2", [3, 4]),
        ("'Edge1' -eq 'EDGE1'; 'a' -ceq 'A'; 'abc' -like 'A*'; 'x1' -match '^x[0-9]$'", [True, False, True, True]),
        ("'b' -in 'a','b'; 'a','b' -contains 'B'", [True, True]),
        ("# comment\n1 <# within #> + 1 # end", [2]),
        ("(Get-Date '2026-01-31').AddMonths(1).Day", [28]),
        ("[datetime]'12/25/2011' -lt [datetime]'2012-01-10'", [True]),
        ("@{a = 1\nb = 2}.b", [2]),
        ("'a','b' -join '-'", ["a-b"]),
        ("1,2,3 | Where-Object { $_ -ne 2 } | ForEach-Object { $_ * 10 }", [10, 30]),
        ("\u2018quoted\u2019; \u201cdouble\u201d", ["quoted", "double"]),
        ("$p = @{ First = 1 }; 7,8 | Select-Object @p", [7]),
        ("7,8,9 |\n Select -F 1", [7]),
        ("7,8,9\n | select -Last 1", [9]),
        ("(7,8,9)[1]; (7,8,9)[-1]", [8, 9]),
    ],
)
def test_values(text: str, expected: list[Any]) -> None:
    assert run(text) == expected


def test_a_line_is_continued_by_backticks_commas_brackets_and_by_lines_that_begin_with_a_parameter() -> None:
    for text in (
        "Set-X -A @('1',\n'2') `\n -B 3 -Verbose",
        "Set-X -A @('1','2')\n-B 3\n  -Verbose",
        "Set-X -A '1',\n'2' \u2013B 3 \u2013Verbose",
    ):
        names = [item.name for item in command(text).arguments if isinstance(item, NamedArgument)]
        assert names == ["A", "B", "Verbose"], text


@pytest.mark.parametrize(
    ("text", "words", "line", "column"),
    [
        ("Get-Date 'x", "The string is missing the terminator: '", 1, 10),
        ("Get-Date\n(1", "Missing closing ')' in expression", 2, 1),
        ("1 | | 2", "An empty pipe element is not allowed", 1, 3),
        ("foreach ($x in 1) {}", "The keyword 'foreach' is not supported here", 1, 1),
        ("Get-Date > file", "Redirection is not supported here", 1, 10),
        ("@{a 1}", "Missing '=' operator after key in hash literal", 1, 3),
        ("Get-Nothing", "The term 'Get-Nothing' is not recognized as the name of a cmdlet", 1, 1),
        ("1 / 0", "Attempted to divide by zero", 1, 1),
        ("& 'x'", "The operator '&' is not supported here", 1, 1),
        ("Get-Date )", "Unexpected token ')'", 1, 10),
        ("1 +", "You must provide a value expression following the '+' operator", 1, 2),
    ],
)
def test_errors_have_powershells_words_and_a_place(text: str, words: str, line: int, column: int) -> None:
    with pytest.raises(CmdletError) as caught:
        run(text)
    assert caught.value.what.startswith(words)
    assert caught.value.place is not None
    assert (caught.value.place.line, caught.value.place.column) == (line, column)
    assert f"at line:{line} char:{column}" in caught.value.why


def test_nothing_runs_when_the_end_of_the_text_is_wrong() -> None:
    host = Silent()
    with Session(Context(_nowhere, host, "test")) as session, pytest.raises(IncompleteScript):
        list(session.results("Write-Host begun\n@('a'"))
    assert host.said == []


def test_size_and_depth_are_bounded() -> None:
    with pytest.raises(CmdletError, match="too long"):
        parse("x" * (MAXIMUM_SIZE + 1))
    for text in ("(" * 5000 + "1" + ")" * 5000, "-not " * 5000 + "$true", "@{a=" * 3000, "$x" + "[0" * 3000):
        with pytest.raises(CmdletError):
            run(text)
    with pytest.raises(CmdletError, match="repeats groups"):
        run("'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!' -match '(a+)+$'")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aZ0_-.$@(){}[]'\"`|;,=\n \t#<>%+*/!&:\u2019\u2013"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except CmdletError as error:
        assert error.place is not None
        assert 1 <= error.place.line <= text.count("\n") + 1


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.integers(-(10**14), 10**14), st.booleans()))
def test_what_is_quoted_is_read_back(value: object) -> None:
    assert run(quoted(value)) == [value]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_arrays_are_read_back(items: list[str]) -> None:
    assert run(array(items)) == items


@given(st.text(max_size=20))
def test_a_word_is_a_number_only_when_it_looks_like_one(text: str) -> None:
    found = number(text)
    assert found is None or any(char.isdigit() for char in text)
