import itertools
import random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.client.router import Router, append_instance, read_instance, row_ranges
from sharder.keys import KeyRange, Partitioner, even_ranges, ranges_from_cuts, routing_key
from sharder.shard_map import Shard, ShardMap, ShardStatus

# Few letters and zero bytes, so that keys tie with boundaries and with their padded windows.
key_bytes = st.text(alphabet="\0ab\x7f", max_size=12).map(str.encode)
random_keys = st.lists(key_bytes | st.binary(max_size=20), max_size=200)
few_cuts = st.sets(key_bytes.filter(bool), max_size=6)
many_cuts = st.sets(key_bytes.filter(bool) | st.binary(min_size=1, max_size=10), min_size=13)


def shard_map(ranges: list[KeyRange], kind: Partitioner = Partitioner.RANGE) -> ShardMap:
    shards = tuple(Shard(f"log/{i}", "log", r, 1, "a", ("a",)) for i, r in enumerate(ranges))
    return ShardMap("log", 1, kind, shards)


def check_split(router: Router, keys: list[bytes], array: pa.BinaryArray) -> None:
    placed: dict[int, str] = {}
    for part in router.split(array):
        rows = list(range(len(keys))) if part.rows is None else part.rows.tolist()
        assert rows == sorted(rows)
        assert rows
        for row in rows:
            assert row not in placed
            placed[row] = part.shard.id
    wanted = [router.map.find(routing_key(router.map.partitioner, key)).id for key in keys]
    assert [placed[row] for row in range(len(keys))] == wanted
    assert [router.find(key).id for key in keys] == wanted


@given(random_keys, few_cuts)
def test_few_boundaries_route_like_single_keys(keys: list[bytes], cuts: set[bytes]) -> None:
    router = Router(shard_map(ranges_from_cuts(sorted(cuts))))
    check_split(router, keys, pa.array(keys, pa.binary()))


@settings(max_examples=200)
@given(random_keys, many_cuts, st.integers(0, 5))
def test_many_boundaries_route_like_single_keys(
    keys: list[bytes], cuts: set[bytes], skip: int
) -> None:
    router = Router(shard_map(ranges_from_cuts(sorted(cuts))))
    whole = pa.array([b"x" * 3] * skip + keys, pa.binary())
    check_split(router, keys, whole[skip:])


@given(random_keys, st.integers(1, 40))
def test_hash_logs_route_like_single_keys(keys: list[bytes], shards: int) -> None:
    router = Router(shard_map(even_ranges(Partitioner.HASH, shards), Partitioner.HASH))
    check_split(router, keys, pa.array(keys, pa.binary()))


@given(st.lists(key_bytes, min_size=1, max_size=20, unique=True))
def test_hash_boundaries_inside_a_token_are_exact(keys: list[bytes]) -> None:
    cuts = sorted({routing_key(Partitioner.HASH, key) for key in keys})
    router = Router(shard_map(ranges_from_cuts(cuts), Partitioner.HASH))
    check_split(router, keys, pa.array(keys, pa.binary()))


def test_rows_of_one_shard_cost_no_copy() -> None:
    router = Router(shard_map(even_ranges(Partitioner.RANGE, 4)))
    (part,) = router.split(pa.array([b"a", b"b"], pa.binary()))
    assert part.rows is None


def ramped(share: float) -> Shard:
    return Shard(
        "log/0",
        "log",
        KeyRange(),
        1,
        "a",
        ("a", "b"),
        addresses={"a": "x:1", "b": "y:1"},
        route={"b": share},
    )


@given(st.floats(0, 1, exclude_max=True), st.lists(st.floats(0, 1), min_size=2))
def test_a_producer_switches_once_as_the_share_rises(draw: float, shares: list[float]) -> None:
    """H3: one draw a producer, so its order is kept through a ramp."""
    targets = [append_instance(ramped(share), draw) for share in sorted(shares)]
    assert targets == sorted(targets)
    assert append_instance(ramped(0.0), draw) == "a"
    assert append_instance(ramped(1.0), draw) == "b"


def test_reads_follow_the_shares() -> None:
    dice = random.Random(7)
    shard = ramped(0.3)
    asked = sum(read_instance(shard, dice) == "b" for _ in range(10_000))
    assert 2_800 < asked < 3_200
    assert read_instance(ramped(1.0), dice, primary=True) == "a"


def test_a_share_of_an_instance_without_address_goes_to_the_primary() -> None:
    shard = Shard("log/0", "log", KeyRange(), 1, "a", ("a", "b"), route={"b": 1.0})
    assert append_instance(shard, 0.5) == "a"


def test_history_is_read_before_its_successors() -> None:
    low, high = KeyRange().split(b"m")
    lower, upper = high.split(b"t")
    sealed = ShardStatus.SEALED
    shards = (
        Shard("l/0", "l", KeyRange(), 1, "a", ("a",), sealed, successors=("l/1", "l/2")),
        Shard("l/1", "l", low, 1, "a", ("a",), predecessors=("l/0",)),
        Shard("l/2", "l", high, 1, "a", ("a",), sealed, predecessors=("l/0",)),
        Shard("l/3", "l", lower, 1, "a", ("a",), predecessors=("l/2",)),
        Shard("l/4", "l", upper, 1, "a", ("a",), predecessors=("l/2",)),
    )
    router = Router(ShardMap("l", 1, Partitioner.RANGE, shards))
    assert [s.id for s in router.shards_to_read(key=b"z")] == ["l/0", "l/2", "l/4"]
    assert [s.id for s in router.shards_to_read(b"a", b"b")] == ["l/0", "l/1"]
    assert [s.id for s in router.shards_to_read()] == ["l/0", "l/1", "l/2", "l/3", "l/4"]


@given(st.sets(st.integers(0, 60)))
def test_row_ranges_cover_the_rows(rows: set[int]) -> None:
    ranges = row_ranges(np.array(sorted(rows), dtype=np.int64))
    assert [row for start, stop in ranges for row in range(start, stop)] == sorted(rows)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
