"""Which versions run side by side."""

from __future__ import annotations

import pytest

from portico import __version__
from portico.versions import Version, is_older, side_by_side


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("0.3.0", "0.3.0", True),
        ("0.3.0", "0.3.9", True),
        ("0.3.9", "0.4.0", True),
        ("0.3.0", "0.4.0rc1", True),
        ("0.3.0+dfsg", "0.4.0", True),
        ("0.3.0", "0.5.0", False),
        ("0.9.0", "1.0.0", False),
        ("1.9.0", "2.9.0", False),
        ("odd", "odd", True),
        ("odd", "0.3.0", False),
        ("", "0.3.0", False),
        ("0.3", "0.3.0", False),
    ],
)
def test_neighbouring_minor_versions_run_side_by_side(one: str, other: str, may: bool) -> None:
    assert side_by_side(one, other) is may
    assert side_by_side(other, one) is may


def test_versions_have_an_order() -> None:
    assert is_older("0.9.1", "0.10.0") and not is_older("0.10.0", "0.9.1")
    assert not is_older("0.3.0", "0.3.0") and not is_older("odd", "0.3.0")
    assert Version.parse("0.1.0\n") is None and Version.parse("٠.1.0") is None
    assert Version.parse(__version__) is not None, "what this program is called follows the rule"
