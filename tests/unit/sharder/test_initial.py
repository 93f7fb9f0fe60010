"""Initial sharding from history, and the cuts that a heatmap knows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.heatmap import AccessHeatmap
from sharder.initial import cuts_of, heatmap_of, homes_of, initial_shards
from sharder.keys import ranges_from_cuts

weights = st.dictionaries(st.binary(min_size=1, max_size=6), st.floats(0.01, 100.0), max_size=60)


@settings(max_examples=200, deadline=None)
@given(weights, st.integers(1, 20))
def test_cuts_rise_and_no_shard_is_needlessly_heavy(
    answer: dict[bytes, float], shards: int
) -> None:
    cuts = cuts_of(answer.items(), shards)
    assert len(cuts) <= shards - 1
    assert cuts == sorted(set(cuts))
    ranges = ranges_from_cuts(cuts)
    loads = [[w for k, w in answer.items() if k in r] for r in ranges]
    assert sum(map(len, loads)) == len(answer)
    if answer and shards <= len(answer):
        part, heaviest = sum(answer.values()) / shards, max(answer.values())
        assert max(sum(found) for found in loads) <= part + heaviest + 1e-9


def test_a_hot_key_stands_alone_and_the_others_share_the_rest() -> None:
    answer = {b"%03d" % n: 1.0 for n in range(100)} | {b"050": 300.0}
    cuts = cuts_of(answer.items(), 8)
    groups = [[k for k in answer if k in r] for r in ranges_from_cuts(cuts)]
    assert [b"050"] in groups
    assert len(groups) == 8
    assert sorted(sum(answer[k] for k in group) for group in groups)[-2] <= 50


def test_heavy_shards_are_spread_and_capacity_counts() -> None:
    profile = np.array([[8.0, 0.0], [0.0, 8.0], [4.0, 4.0], [4.0, 4.0]])
    homes = homes_of(profile, np.array([1.0, 1.0]))
    total = np.zeros((2, 2))
    np.add.at(total, homes, profile)
    assert total.max() == 8.0
    uneven = homes_of(np.ones((40, 1)), np.array([3.0, 1.0]))
    assert uneven.count(0) == 30


def test_history_gives_shards_that_cover_the_key_space_and_share_the_load() -> None:
    rng = np.random.default_rng(1)
    accesses = [
        (b"%06d" % (rng.zipf(1.3) % 5_000), 1.0, slot) for slot in range(24) for _ in range(800)
    ]
    found = initial_shards(heatmap_of(accesses), 12, {"a": 1.0, "b": 1.0, "c": 2.0})
    assert len(found) == 12
    assert found[0].range.start == b""
    assert found[-1].range.end is None
    assert all(a.range.end == b.range.start for a, b in pairwise(found))
    true = np.array([sum(key in s.range for key, _, _ in accesses) for s in found])
    assert np.abs(true / true.sum() - np.array([s.share for s in found])).max() < 0.03
    by = {n: sum(s.share for s in found if s.instance == n) for n in "abc"}
    assert by["c"] == pytest.approx(0.5, abs=0.13)


def test_without_history_or_with_bad_weights_nothing_is_guessed() -> None:
    with pytest.raises(ValueError, match="holds no accesses"):
        initial_shards(AccessHeatmap(), 4, {"a": 1.0})
    with pytest.raises(ValueError, match="shards is 0"):
        cuts_of([(b"a", 1.0)], 0)
    with pytest.raises(ValueError, match="weight of key b'a' is -1"):
        cuts_of([(b"a", -1.0)], 2)
    with pytest.raises(ValueError, match="capacity must hold"):
        homes_of(np.ones((2, 1)), np.array([1.0, 0.0]))


def test_a_heatmap_tells_cuts_with_the_load_below_them() -> None:
    heatmap = AccessHeatmap(32)
    for turn in range(2_000):
        n = turn * 37 % 100
        heatmap.add([b"%02d" % n], [30.0 if n == 42 else 1.0], 1)
    cuts = heatmap.cuts(b"", None, 16)
    assert 8 <= len(cuts) <= 16
    assert [k for k, _ in cuts] == sorted(k for k, _ in cuts)
    shares = dict(cuts)
    assert shares[b"42"] == pytest.approx(42 / 129, abs=0.02)  # both sides of the hot key
    assert shares[b"43"] == pytest.approx(72 / 129, abs=0.02)
    inside = heatmap.cuts(b"50", b"60", 4)
    assert inside
    assert all(b"50" < key < b"60" for key, _ in inside)
    assert heatmap.cuts(b"42", b"43") == []
