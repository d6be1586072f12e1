"""How every changing cmdlet goes: -WhatIf is the API's dry run, -Verbose prints the plan, -Confirm asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from portico.errors import InvalidInput
from portico.management.client.models import Outcome
from portico.management.cmdlets.binding import Bound
from portico.management.cmdlets.cmdlet import Context


def change(
    context: Context, bound: Bound, target: str, do: Callable[[bool], Outcome], *, question: str = ""
) -> Outcome | None:
    """Makes a change of the settings, or only says what it would do.

    Args:
        target: what is changed, for people.
        do: makes the change, or with True the dry run of it.
        question: what Windows asks before this change; empty when it does not ask.

    Returns:
        None with -WhatIf.
    """
    if bound.switch("WhatIf"):
        said(context, bound, target)
        planned = do(True)
        for line in _plan(planned):
            context.host.information(f"What if: {line}")
        _advice(context, planned)
        return None
    verbose = bound.switch("Verbose") or bound.switch("Debug")
    asking = asks(bound, question)
    if verbose or asking:
        planned = do(True)
        for line in _plan(planned):
            (context.host.information if asking and not verbose else context.host.verbose)(line)
    if asking:
        context.host.confirm(question or f'Performing the operation "{bound.cmdlet}" on target "{target}". Continue?')
    outcome = do(False)
    warn(context, bound, (str(problem.what) + ": " + problem.why for problem in outcome.problems))
    _advice(context, outcome)
    if verbose:
        for line in outcome.kernel:
            context.host.verbose(line)
        if outcome.revision is not None:
            context.host.verbose(f"Revision {outcome.revision.number} is in force.")
    return outcome


def act(context: Context, bound: Bound, target: str, *, question: str = "") -> bool:
    """The same for what has no plan: whether to do it. With -WhatIf it says what would be done and returns False."""
    if bound.switch("WhatIf"):
        said(context, bound, target)
        return False
    if asks(bound, question):
        context.host.confirm(question or f'Performing the operation "{bound.cmdlet}" on target "{target}". Continue?')
    return True


def said(context: Context, bound: Bound, target: str) -> None:
    context.host.information(f'What if: Performing the operation "{bound.cmdlet}" on target "{target}".')


def asks(bound: Bound, question: str) -> bool:
    """Whether to ask: as -Confirm says, otherwise when Windows would and -Force is not given."""
    if "Confirm" in bound:
        return bound.switch("Confirm")
    return bool(question) and not bound.switch("Force")


def warn(context: Context, bound: Bound, texts: Iterable[str]) -> None:
    if str(bound.get("WarningAction", "")).lower() in ("silentlycontinue", "ignore"):
        return
    for text in texts:
        context.host.warning(text)


def settings_change(
    context: Context,
    bound: Bound,
    edit: Callable[[dict[str, Any]], None],
    *,
    target: str,
    question: str = "",
) -> Outcome | None:
    """`change` of single settings: `edit` alters the document's data."""
    context.computer(bound)

    def edited(data: dict[str, Any]) -> dict[str, Any]:
        edit(data)
        return data

    return change(
        context,
        bound,
        target,
        lambda dry: context.api.settings.edit(edited, comment=bound.cmdlet, dry_run=dry),
        question=question,
    )


def nothing_given(bound: Bound, names: Iterable[str]) -> InvalidInput:
    """The error for a cmdlet without anything to change."""
    return InvalidInput(
        f"{bound.cmdlet} has nothing to change",
        why="no parameter says what",
        resolution=f"Give at least one of: {', '.join(f'-{name}' for name in names)}",
        code="CMDLET_NOTHING_GIVEN",
    )


def _plan(outcome: Outcome) -> list[str]:
    lines = list(outcome.difference.lines) or ["No difference."]
    lines += [f"{problem.severity}: {problem.what}: {problem.why}" for problem in outcome.problems]
    return lines


def _advice(context: Context, outcome: Outcome) -> None:
    for advice in outcome.advice:
        text = f"{advice['interface']}, {advice['platform']}: {advice['what']}: {advice['why']} ({advice['code']})"
        (context.host.warning if advice["severity"] != "note" else context.host.information)(text)
