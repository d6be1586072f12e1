"""A session: text in, objects or shown text out. What the command line and a web console use."""

from __future__ import annotations

from collections.abc import Iterator

from portico.management.cmdlets.cmdlet import Context
from portico.management.cmdlets.formatting import rendered
from portico.management.cmdlets.interpreter import Interpreter
from portico.management.cmdlets.parser import parse
from portico.management.cmdlets.values import Value


class Session:
    """Runs scripts one after the other with the same variables. A context manager that closes the connection."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._interpreter = Interpreter(context)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def results(self, text: str) -> Iterator[list[Value]]:
        """What each statement gives, while it runs. The whole text is read first: a misspelt end changes nothing.

        Raises:
            CmdletError: the text cannot be read, bound or evaluated.
            PorticoError: what a cmdlet did failed; the statements after it were not run.
        """
        for statement in parse(text):
            yield self._interpreter.run(statement)

    def shown(self, text: str) -> Iterator[str]:
        """The same as text for people."""
        for found in self.results(text):
            if found:
                yield rendered(found, self.context.width)
