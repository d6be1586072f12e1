"""How a route lists in pages: the answer has `next`, and asked with it as `after` the route goes on behind it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=10_000, description="entries at most")]
After = Annotated[str | None, Query(max_length=400, description="'next' of the page before")]

PAGE = 1000
"""Entries of a page for who says nothing."""
