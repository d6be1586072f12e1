"""The page: the same chain as `portico client status`, for a browser. Pure; no scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from portico.client.assistant.report import Check, Report, State
from portico.client.surface.words import MARKS, failure, standing, word
from portico.errors import PorticoError

REFRESH: Final = 5
"""Seconds after which a page that is served loads itself anew."""

STYLE: Final = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:56rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}
h1 b{padding:.1em .6em;border-radius:.3em;color:#fff;background:#555}
h1.working b{background:#1a7f37}h1.broken b{background:#b3261e}h1.connecting b{background:#8a5a00}
section{border-left:.3rem solid #b3261e;padding:.1rem 1rem;margin:1.5rem 0}
h2{font-size:1.2rem;margin:.4rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.5rem 0}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-top:1px solid #8886;overflow-wrap:anywhere}
td:first-child,td:last-child,th{white-space:nowrap}td:last-child,th:last-child{padding-right:0}
td:nth-child(2){min-width:11.5em}
td.failed{color:#b3261e;font-weight:600}td.skipped,td.running{opacity:.7}
@media (prefers-color-scheme:dark){td.failed{color:#ff8a80}section{border-color:#ff8a80}}
@media (max-width:44rem){
body{margin:1rem auto}dl{display:block}dd{margin:0 0 .5rem}
table,tbody,tr,td{display:block}th{display:none}
tr+tr{border-top:1px solid #8886;padding:.5rem 0}td,td:last-child{border:0;padding:0}
caption{display:block;white-space:nowrap}td:nth-child(2){font-weight:600}td:last-child{font-size:.875rem;opacity:.7}
}
footer{margin:2rem 0;opacity:.7;font-size:.875rem}
"""

POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'"
)
"""Content-Security-Policy: the style above and nothing else."""


def draw(report: Report, now: datetime, *, refresh: bool) -> str:
    """The page of a report.

    Args:
        now: with the time zone in which times are shown.
        refresh: whether the page loads itself anew; not when it is a file.
    """
    said = word(report.status).value
    head = [
        f'<h1 class="{said}">Remote Access: <b>{said}</b></h1>',
        f"<p>{html.escape(standing(report))}, since {_time(report.since, now)}.</p>",
    ]
    if report.network:
        head.append(f"<p>Network: {html.escape(report.network)}</p>")
    failures = [_failure(report, check, now) for check in report.checks if check.state is State.FAILED]
    return _document(f"Remote Access: {said}", [*head, *failures, _chain(report, now)], now, refresh=refresh)


def draw_error(error: PorticoError, now: datetime, *, refresh: bool) -> str:
    """The page while there is no report."""
    lines = {"Cause": error.why, "Next": error.resolution}
    body = [
        '<h1 class="broken">Remote Access: <b>unknown</b></h1>',
        f"<section><h2>{html.escape(error.what)}</h2>{_pairs({name: text for name, text in lines.items() if text})}"
        "</section>",
    ]
    return _document("Remote Access: unknown", body, now, refresh=refresh)


def _failure(report: Report, check: Check, now: datetime) -> str:
    lines = failure(report, check)
    what = lines.pop("What failed")
    return f"<section><h2>{html.escape(what)}</h2>{_pairs({**lines, 'Since': _clock(check.since, now)})}</section>"


def _chain(report: Report, now: datetime) -> str:
    if not report.checks:
        return "<p>Nothing was looked at.</p>"
    rows = "".join(
        f'<tr><td class="{check.state}">{MARKS[check.state]} {check.state}</td><td>{html.escape(check.name)}</td>'
        f"<td>{html.escape(check.detail)}</td><td>{_time(check.since, now)}</td></tr>\n"
        for check in report.checks
    )
    names = "".join(f'<th scope="col">{name}</th>' for name in ("State", "Check", "Found", "Since"))
    return f"<table><caption>Checks, in their order</caption>\n<tr>{names}</tr>\n{rows}</table>"


def _pairs(lines: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in lines.items())
    return f"<dl>{items}</dl>"


def _document(title: str, body: list[str], now: datetime, *, refresh: bool) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH}">\n' if refresh else ""
    # Policy and referrer also in the page: a file has no headers.
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_META_POLICY)}">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="viewport" content="width=device-width">\n'
        f"{again}<title>{html.escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>As of {_time(now, now)}</footer>\n</body></html>\n"
    )


# A page's own policy may not speak of frames (CSP 3 section 3.3); browsers complain about one that does.
_META_POLICY = POLICY.replace("frame-ancestors 'none'; ", "")


def _time(when: datetime, now: datetime) -> str:
    local = when.astimezone(now.tzinfo)
    return f'<time datetime="{local.isoformat(timespec="seconds")}">{_clock(when, now)}</time>'


def _clock(when: datetime, now: datetime) -> str:
    return f"{when.astimezone(now.tzinfo):%Y-%m-%d %H:%M:%S}"
