"""The kernel's hash: known values, and what must hold for all. The lab holds it against the kernel itself."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb.hash import bucket_of, busy_slots, jhash, slot_of
from portico.balancing.nlb.plan import BUCKETS, SLOTS_PER_BUCKET, Address, Affinity

addresses = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
affinities: st.SearchStrategy[Affinity] = st.sampled_from(("none", "single", "network"))
seeds = st.integers(0, 2**32 - 1)
ports = st.integers(0, 65_535)


def test_jhash_of_nothing_is_its_start() -> None:
    assert jhash(b"", 0) == 0xDEADBEEF


@pytest.mark.parametrize(
    ("key", "seed", "value"),
    [
        # hashlittle() of Bob Jenkins' lookup3.c, driver5.
        (b"Four score and seven years ago", 0, 0x17770551),
        (b"Four score and seven years ago", 1, 0xCD628161),
    ],
)
def test_jhash_is_lookup3(key: bytes, seed: int, value: int) -> None:
    """The kernel's differs from hashlittle() only in its start, which is the seed here."""
    assert jhash(key, seed) == value


@given(addresses, ports, affinities, seeds)
def test_a_bucket_is_64_neighbouring_slots(source: Address, port: int, affinity: Affinity, seed: int) -> None:
    bucket = bucket_of(source, port, affinity, seed)
    assert 0 <= bucket < BUCKETS
    assert slot_of(source, port, affinity, seed) // SLOTS_PER_BUCKET == bucket


@given(addresses, ports, ports, seeds)
def test_ports_matter_with_affinity_none_only(source: Address, one: int, other: int, seed: int) -> None:
    for affinity in ("single", "network"):
        assert slot_of(source, one, affinity, seed) == slot_of(source, other, affinity, seed)


@given(st.integers(0, 255), st.integers(0, 255), seeds)
def test_a_network_stays_together(one: int, other: int, seed: int) -> None:
    base4, base6 = int(IPv4Address("198.51.100.0")), int(IPv6Address("2001:db8:1:2::"))
    assert bucket_of(IPv4Address(base4 + one), 0, "network", seed) == bucket_of(
        IPv4Address(base4 + other), 0, "network", seed
    )
    assert bucket_of(IPv6Address(base6 + (one << 50)), 0, "network", seed) == bucket_of(
        IPv6Address(base6 + (other << 50) + other), 0, "network", seed
    )


def test_clients_spread_evenly() -> None:
    found = Counter(bucket_of(IPv4Address(0xC6120000 + n), 0, "single", 7) for n in range(60_000))
    assert len(found) == BUCKETS
    assert all(850 < count < 1150 for count in found.values())


def test_busy_slots_are_of_the_buckets_asked_about() -> None:
    sources: list[tuple[Address, int]] = [(IPv4Address(0xC6120000 + n), 0) for n in range(500)]
    buckets = frozenset({3, 4})
    found = busy_slots(sources, buckets, "single", 7)
    assert found
    assert {slot // SLOTS_PER_BUCKET for slot in found} <= buckets
    assert found == {
        slot for source, _ in sources if (slot := slot_of(source, 0, "single", 7)) // SLOTS_PER_BUCKET in buckets
    }
