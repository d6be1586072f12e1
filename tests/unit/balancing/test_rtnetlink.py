"""Attributes of rtnetlink messages: what is written is read, and what is cut off is no attribute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb import rtnetlink

VALUES = st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=6)


@given(VALUES)
def test_what_is_written_is_read(values: dict[int, bytes]) -> None:
    assert rtnetlink.attributes(b"".join(rtnetlink.attribute(*item) for item in values.items())) == values


@given(VALUES, st.integers(0, 300))
def test_of_what_is_cut_off_the_whole_ones_are_read(values: dict[int, bytes], length: int) -> None:
    data = b"".join(rtnetlink.attribute(*item) for item in values.items())
    found = rtnetlink.attributes(data[:length])
    assert found.items() <= values.items()


@given(st.binary(max_size=100))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    rtnetlink.attributes(data)


def test_nested_ones_have_their_kind_without_the_flag() -> None:
    assert rtnetlink.attributes(rtnetlink.attribute(0x8002, b"abc")) == {2: b"abc"}
