"""The wizard: answers in, the settings document out. One question after the other, each answer judged at once.

An answer is judged by the rules of the settings themselves: with the answers so far, and what Enter would answer to the
rest, a document is made, and of its problems those are told that are about the question's settings. No I/O; the caller
shows, reads, and looks at the files that a document names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from portico.management.wizard.questions import (
    QUESTIONS,
    Answers,
    Choice,
    Data,
    Detected,
    Question,
    Topology,
    is_public,
)
from portico.settings.document import load_data
from portico.settings.facts import Facts
from portico.settings.model import SCHEMA_VERSION, Settings
from portico.settings.problems import Problem, SettingsRefused, errors
from portico.settings.verify import verify

Look = Callable[[Settings, bool], Facts]
"""What is true of the machine, with the files that a document names; and whether its names are looked up as well."""

_PLACEHOLDERS: Mapping[str, str] = {
    "name": "da1",
    "connect_to": "da.invalid",
    "domain": "corp.invalid",
    "server_certificate": "/nonexistent",
    "server_key": "/nonexistent",
    "client_ca": "/nonexistent",
}
"""Stand for answers that are needed and have not been given, while others are judged (RFC 6761: nobody's names)."""


class Wizard:
    """A way through the questions, forwards and back.

    Args:
        detected: the machine, for defaults.
        given: answers that are known already (options of the command line); they are not asked.
        look: looks at the machine and at the files that a document names.
    """

    def __init__(self, detected: Detected, given: Answers, look: Look) -> None:
        self._detected = detected
        self._given = dict(given)
        self._look = look
        self._answers: dict[str, str] = {}
        self._kept: dict[str, str] = {}

    @property
    def answers(self) -> dict[str, str]:
        """Given and answered, in the order of the questions."""
        known = {**self._answers, **self._given}
        return {question.key: known[question.key] for question in QUESTIONS if question.key in known}

    @property
    def question(self) -> Question | None:
        """What is to be answered now; None when everything is."""
        known = self.answers
        for question in QUESTIONS:
            if question.key not in known and question.asked(_before(question, known)):
                return question
        return None

    @property
    def number(self) -> tuple[int, int]:
        """Which question this is, and how many there are as the answers stand now."""
        known = self.answers
        asked = [q.key for q in QUESTIONS if q.asked(known) and q.key not in self._given]
        now = self.question
        return (asked.index(now.key) + 1 if now is not None and now.key in asked else len(asked)), len(asked)

    def default(self) -> str:
        """What Enter answers: what was answered before going back, or what was detected. Empty: an answer is needed."""
        question = self.question
        if question is None:
            return ""
        return str(self._kept.get(question.key) or question.default(self._detected, self.answers))

    def choices(self) -> tuple[Choice, ...]:
        return self.question.choices(self._detected) if self.question is not None else ()

    def found(self) -> str:
        """What was detected that helps to answer."""
        return self.question.found(self._detected, self.answers) if self.question is not None else ""

    def answer(self, text: str) -> list[Problem]:
        """Takes an answer when it has no error, and goes on to the next question.

        Returns:
            What is wrong with it. With an error among it the question stays.
        """
        question = self.question
        assert question is not None, "everything has been answered"
        value, problem = self._value(question, text.strip())
        if problem is not None:
            return [problem]
        problems = self._own(question, value)
        if not errors(problems):
            self._answers[question.key] = value
            self._kept[question.key] = value
        return problems

    def back(self) -> bool:
        """Goes to the question before; False at the first one."""
        for question in reversed(QUESTIONS):
            if question.key in self._answers:
                del self._answers[question.key]
                return True
        return False

    def back_to(self, problems: Iterable[Problem]) -> bool:
        """Goes to the first question that one of these problems is about; False when none is."""
        known = self.answers
        about = {question.key for problem in problems if (question := owner(problem.path)) is not None}
        keys = [question.key for question in QUESTIONS if question.key in known]
        first = next((key for key in keys if key in about and key in self._answers), None)
        if first is None:
            return False
        for key in keys[keys.index(first) :]:
            self._answers.pop(key, None)
        return True

    def settings(self) -> Settings:
        """The document of the answers. Raises SettingsRefused."""
        return load_data(document(self.answers), source="the answers")

    def problems(self) -> list[Problem]:
        """Everything that is wrong with the document on this machine, errors first."""
        try:
            settings = self.settings()
        except SettingsRefused as refused:
            return list(refused.problems)
        return verify(settings, self._look(settings, True))

    def _value(self, question: Question, text: str) -> tuple[str, Problem | None]:
        choices = question.choices(self._detected)
        text = text or self.default()
        if not text:
            return "", _no_answer(question, "there is no default for it", "Answer it, or end with Ctrl-C")
        if not choices:
            return text, None
        if text.isascii() and text.isdigit() and 0 < int(text) <= len(choices):
            return str(choices[int(text) - 1].value), None
        chosen = [str(choice.value) for choice in choices if choice.value.lower().startswith(text.lower())]
        if len(chosen) == 1 or text in chosen:
            return (text if text in chosen else chosen[0]), None
        names = ", ".join(choice.value for choice in choices)
        return "", _no_answer(question, f"'{text}' is none of them", f"Answer with a number or one of: {names}")

    def _own(self, question: Question, value: str) -> list[Problem]:
        """What is wrong with an answer by itself, and with its settings in the document of all answers."""
        answers = {**self.answers, question.key: value}
        problems = list(_own_rules(question, answers, self._detected))
        if errors(problems):
            return problems
        complete = self._completed(answers)
        try:
            settings = load_data(document(complete), source="the answers")
        except SettingsRefused as refused:
            return problems + [p for p in refused.problems if owner(p.path) is question]
        found = verify(settings, self._look(settings, question.key == "connect_to"))
        return problems + [p for p in found if owner(p.path) is question and not _waits(p, complete, answers)]

    def _completed(self, answers: Answers) -> dict[str, str]:
        """The answers with what Enter would answer to the rest, and placeholders where nothing is known."""
        complete = dict(answers)
        for question in QUESTIONS:
            if question.key not in complete and question.asked(complete):
                default = self._kept.get(question.key) or question.default(self._detected, complete)
                complete[question.key] = str(default) or _PLACEHOLDERS.get(question.key, "")
        return {key: value for key, value in complete.items() if value}


def document(answers: Answers) -> Data:
    """The data of the document that these answers make. Pure; nothing is checked."""
    data: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "deployment": {}, "server": {}}
    for question in QUESTIONS:
        if question.key in answers and question.asked(answers):
            question.write(data, answers[question.key], answers)
    return data


def owner(path: str) -> Question | None:
    """The question that a setting belongs to: the one that names the longest part of its path."""
    best: tuple[int, Question] | None = None
    for question in QUESTIONS:
        for own in question.paths:
            if path == own or path.startswith((f"{own}.", f"{own}[")):
                best = max(best or (0, question), (len(own), question), key=lambda item: item[0])
    return best[1] if best is not None else None


def _before(question: Question, answers: Answers) -> dict[str, str]:
    keys = [item.key for item in QUESTIONS]
    earlier = set(keys[: keys.index(question.key)])
    return {key: value for key, value in answers.items() if key in earlier}


def _own_rules(question: Question, answers: Answers, detected: Detected) -> Iterable[Problem]:
    """What no rule of the settings says, because the document does not know of the topology."""
    if question.key == "internal" and answers["internal"] == answers.get("internet"):
        yield _no_answer(
            question,
            f"{answers['internal']} is the adapter that remote computers reach",
            "Choose the other one, or go back and choose a single adapter",
        )
    if question.key == "internet" and answers.get("topology") == Topology.EDGE:
        interface = detected.facts.interface(answers["internet"])
        if interface is not None and not is_public(interface):
            yield Problem(
                "WIZARD_NO_PUBLIC_ADDRESS",
                "server.internet_interface",
                f"{interface.name} has no public IPv4 address",
                "an edge server is reached at its own address",
                "Go back and choose 'two-adapters' when a device in front forwards TCP 443",
                severity="warning",
            )


def _waits(problem: Problem, complete: Answers, answers: Answers) -> bool:
    """Whether a problem comes of a placeholder, so that it can only be judged later."""
    placeholders = [value for key, value in complete.items() if key not in answers and value in _PLACEHOLDERS.values()]
    return any(value in problem.why or value in problem.what for value in placeholders)


def _no_answer(question: Question, why: str, resolution: str) -> Problem:
    path = question.paths[0] if question.paths else ""
    return Problem("WIZARD_ANSWER", path, "This cannot be the answer", why, resolution)
