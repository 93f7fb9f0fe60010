"""The shard map: I1 at every version, lookups, changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharder.keys import KeyRange, Partitioner, even_ranges, ranges_from_cuts
from sharder.shard_map import Shard, ShardMap, ShardMapError, ShardStatus, check_cover


def make(ranges: list[KeyRange], version: int = 1) -> ShardMap:
    shards = tuple(
        Shard(f"log/{i}", "log", r, 0, "a", ("a",), addresses={"a": "host:1"})
        for i, r in enumerate(ranges)
    )
    return ShardMap("log", version, Partitioner.RANGE, shards)


cuts = st.lists(st.binary(min_size=1, max_size=3), unique=True, max_size=12).map(sorted)
keys = st.binary(max_size=4)


@given(cuts, keys)
def test_find_gives_the_only_shard_that_holds_the_key(at: list[bytes], key: bytes) -> None:
    shards = make(ranges_from_cuts(at))
    assert shards.find(key) == next(s for s in shards.shards if key in s.range)
    assert sum(key in s.range for s in shards.open_shards) == 1


@given(cuts, keys, keys)
def test_overlapping_is_what_a_scan_over_all_finds(at: list[bytes], one: bytes, two: bytes) -> None:
    shards = make(ranges_from_cuts(at))
    for wanted in (KeyRange(one), KeyRange(min(one, two), max(one, two)) if one != two else None):
        if wanted is not None:
            by_scan = [s for s in shards.shards if s.range.overlaps(wanted)]
            assert shards.overlapping(wanted) == by_scan
            assert shards.overlapping(wanted, sealed=True) == by_scan


@given(cuts, st.lists(st.tuples(st.integers(0, 50), keys), max_size=8))
def test_cover_is_kept_by_any_splits(at: list[bytes], splits: list[tuple[int, bytes]]) -> None:
    shards = make(ranges_from_cuts(at))
    for number, (which, key) in enumerate(splits):
        parent = shards.open_shards[which % len(shards.open_shards)]
        if not key > parent.range.start or (
            parent.range.end is not None and key >= parent.range.end
        ):
            continue
        children = [
            replace(parent, id=f"log/s{number}{side}", range=part, predecessors=(parent.id,))
            for side, part in zip("lr", parent.range.split(key), strict=True)
        ]
        sealed = replace(
            parent, status=ShardStatus.SEALED, successors=tuple(c.id for c in children)
        )
        newer = shards.with_shard(sealed, *children)
        check_cover("log", newer.open_shards)
        assert newer.version == shards.version + 1
        changes = shards.diff(newer)
        assert changes.added == tuple(c.id for c in children)
        assert changes.changed == (parent.id,)
        assert newer.find(key) == children[1]
        shards = newer


@given(cuts.filter(len), st.data())
def test_a_map_without_one_of_its_shards_is_refused(at: list[bytes], data: st.DataObject) -> None:
    shards = make(ranges_from_cuts(at)).shards
    lost = data.draw(st.integers(0, len(shards) - 1))
    with pytest.raises(ShardMapError, match="no open shard covers"):
        ShardMap("log", 1, Partitioner.RANGE, shards[:lost] + shards[lost + 1 :])


def test_gap_and_overlap_are_named() -> None:
    with pytest.raises(ShardMapError, match=r"no open shard covers \['b', 'c'\)"):
        make([KeyRange(b"", b"b"), KeyRange(b"c")])
    with pytest.raises(ShardMapError, match=r"log/0 .*'c'\) and log/1 \['b', .* overlap"):
        make([KeyRange(b"", b"c"), KeyRange(b"b")])
    with pytest.raises(ShardMapError, match="overlap"):
        make([KeyRange(b""), KeyRange(b"b")])
    with pytest.raises(ShardMapError, match="no open shard covers"):
        ShardMap("log", 1, Partitioner.RANGE, ())


def test_a_sealing_shard_still_covers_and_a_sealed_one_does_not() -> None:
    shards = make(even_ranges(Partitioner.RANGE, 2))
    sealing = shards.with_shard(replace(shards.shards[0], status=ShardStatus.SEALING))
    assert sealing.find(b"").status is ShardStatus.SEALING
    with pytest.raises(ShardMapError, match="no open shard covers"):
        shards.with_shard(replace(shards.shards[0], status=ShardStatus.SEALED))


def test_shards_that_contradict_themselves_are_refused() -> None:
    shard = make([KeyRange()]).shards[0]
    assert shard.address == "host:1"
    assert replace(shard, addresses={}).address is None
    with pytest.raises(ShardMapError, match="epoch is -1"):
        replace(shard, epoch=-1)
    with pytest.raises(ShardMapError, match="primary b is not in the in-sync set"):
        replace(shard, primary="b")
    with pytest.raises(ShardMapError, match=r"route to b is 1\.5"):
        replace(shard, route={"b": 1.5})
    with pytest.raises(ShardMapError, match="add up to"):
        replace(shard, route={"b": 0.7, "c": 0.7})
    with pytest.raises(ShardMapError, match="appears twice"):
        ShardMap("log", 1, Partitioner.RANGE, (shard, shard))
    with pytest.raises(ShardMapError, match="is of log other"):
        ShardMap("log", 1, Partitioner.RANGE, (replace(shard, log="other"),))


def test_get_and_diff() -> None:
    old = make(even_ranges(Partitioner.HASH, 3))
    moved = old.with_shard(replace(old.shards[1], primary="b", in_sync=("b",), epoch=1))
    assert moved.get("log/1") == moved.shards[1]
    assert moved.get("log/9") is None
    assert old.diff(moved).changed == ("log/1",)
    assert moved.diff(old).changed == ("log/1",)
    assert not old.diff(old)
    assert moved.version == 2
    assert old.shards[1].primary == "a"
