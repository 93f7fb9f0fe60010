"""Routing keys and ranges."""

import itertools

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from sharder.keys import KeyRange, Partitioner, even_ranges, ranges_from_cuts, routing_key

keys = st.binary(max_size=4)
ranges = st.builds(lambda a, b: KeyRange(min(a, b), max(a, b) if a != b else None), keys, keys)


@given(ranges, ranges, keys)
def test_ranges_agree_with_membership(one: KeyRange, two: KeyRange, key: bytes) -> None:
    if key in one and key in two:
        assert one.overlaps(two)
        assert two.overlaps(one)
    if one.contains_range(two):
        assert one.overlaps(two)
        assert key not in two or key in one


@given(ranges, keys)
def test_a_split_keeps_every_key_once(whole: KeyRange, at: bytes) -> None:
    if at <= whole.start or at not in whole:
        with pytest.raises(ValueError, match="not strictly inside"):
            whole.split(at)
        return
    low, high = whole.split(at)
    assert (low.start, low.end, high.start, high.end) == (whole.start, at, at, whole.end)
    assert not low.overlaps(high)
    assert whole.contains_range(low)
    assert whole.contains_range(high)


@given(st.binary(max_size=20))
def test_routing_keys(key: bytes) -> None:
    assert routing_key(Partitioner.RANGE, key) == key
    hashed = routing_key(Partitioner.HASH, key)
    assert int.from_bytes(hashed[:8], "big") == xxhash.xxh3_64_intdigest(key)
    assert hashed[8:] == key


@pytest.mark.parametrize("count", [1, 2, 3, 7, 256, 65_536])
def test_even_ranges_cover_and_are_even(count: int) -> None:
    cut = even_ranges(Partitioner.HASH, count)
    assert len(cut) == count
    assert cut[0].start == b""
    assert cut[-1].end is None
    assert all(a.end == b.start for a, b in itertools.pairwise(cut))
    starts = [int.from_bytes(r.start, "big") for r in cut] + [65_536]
    widths = {b - a for a, b in itertools.pairwise(starts)}
    assert max(widths) - min(widths) <= 1


def test_bad_ranges_are_refused() -> None:
    for count in (0, 65_537):
        with pytest.raises(ValueError, match=f"shards is {count}"):
            even_ranges(Partitioner.RANGE, count)
    with pytest.raises(ValueError, match="not above its start"):
        ranges_from_cuts([b"b", b"a"])
    assert str(KeyRange(b"a")) == "['a', +inf)"
