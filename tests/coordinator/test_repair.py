"""Repair and drain, as decided: which step comes next for a shard."""

from dataclasses import replace

import pytest

from coordinator.drain import check_drain, left_on
from coordinator.homes import Cluster
from coordinator.repair import decide, with_copy
from logstore.base.errors import RefusedError
from logstore.base.types import ShardStatus
from logstore.meta.records import (
    CapacityRecord,
    InstanceRecord,
    LogOptions,
    Member,
    ShardRecord,
)
from profiler.types import Capacity, DataStoreStatus
from sharder.keys import KeyRange

OPTIONS = LogOptions(replicas=3, min_in_sync=2)


def cluster(*draining: str, silent: dict[str, float] | None = None, zones: str = "abcd") -> Cluster:
    """Instances i0, i1 … in the zones given."""
    instances = {
        f"i{n}": InstanceRecord(f"i{n}", f"h:{n}", 1, zone=f"zone-{zone}")
        for n, zone in enumerate(zones)
    }
    return Cluster(instances, silent or {}, {}, 30.0, frozenset(draining))


def shard(*on: int, name: str = "x/0") -> ShardRecord:
    members = tuple(Member(f"i{n}", 1, n + 1) for n in on)
    return ShardRecord(
        shard=name, log="x", range=KeyRange(b"", None), status=ShardStatus.OPEN, epoch=1,
        primary_since=1, primary=members[0], in_sync=members, min_in_sync=2,
    )  # fmt: skip


def test_a_whole_shard_is_left_alone() -> None:
    assert decide(shard(0, 1, 2), OPTIONS, cluster()) is None
    assert decide(shard(0, 1, 2), OPTIONS, cluster("i3")) is None


def emptied(record: ShardRecord, of: Cluster, options: LogOptions = OPTIONS) -> list[str]:
    """Take every step at once, as the primary would; returns why each was taken."""
    story = []
    for number in range(20):
        step = decide(record, options, of)
        if step is None:
            return story
        story.append(step.why)
        record = step.record
        if step.add is not None:
            record = with_copy(record, step.add, 100 + number)
        joined = tuple(m for m in record.learners if m.replica_id in record.admit)
        record = replace(
            record,
            in_sync=tuple(
                m for m in record.in_sync + joined if m.replica_id not in record.remove
            ),
            learners=tuple(m for m in record.learners if m not in joined),
            remove=(), admit=(),
        )  # fmt: skip
        if record.hand_over is not None:
            heir = next(m for m in record.in_sync if m.replica_id == record.hand_over)
            record = replace(record, primary=heir, hand_over=None)
        assert len([m for m in record.in_sync if m.instance not in of.draining]) >= 2
        assert record.primary in record.in_sync
    raise AssertionError(f"it does not end: {story}")


def test_a_drained_primary_is_replaced_then_switched_then_removed() -> None:
    story = emptied(shard(0, 1, 2), cluster("i0"))
    assert story == [
        "a copy on i3",
        "i0 is draining: i1 shall lead",
        "i0 is draining",
    ]


def test_a_drained_follower_is_replaced_then_removed() -> None:
    assert emptied(shard(0, 1, 2), cluster("i2")) == ["a copy on i3", "i2 is draining"]


def test_a_learner_on_a_drained_instance_goes() -> None:
    record = shard(0, 1)
    late = replace(record, learners=(Member("i2", 1, 9),))
    step = decide(late, LogOptions(replicas=2), cluster("i2"))
    assert step is not None
    assert step.record.learners == ()


def test_the_new_copy_takes_the_zone_that_is_given_up() -> None:
    step = decide(shard(0, 1, 2), OPTIONS, cluster("i0", zones="abcba"))
    assert step is not None
    assert step.add is not None
    assert step.add.instance == "i4"


def test_without_a_place_nothing_is_removed() -> None:
    assert emptied(shard(0, 1, 2), cluster("i2", zones="abc")) == []


def test_a_drain_is_refused_with_the_reason() -> None:
    full = cluster("i2", zones="abc")
    with pytest.raises(RefusedError, match="shard x/0 has no place: 2 other instances are alive"):
        check_drain("i2", [shard(0, 1, 2)], full, {}, {})
    with pytest.raises(RefusedError, match="would be in 2 zones instead of 3"):
        check_drain("i2", [shard(0, 1, 2)], cluster("i2", zones="abca"), {}, {})
    check_drain("i2", [shard(0, 1, 2)], cluster("i2"), {}, {})
    with pytest.raises(RefusedError, match="no other instance is alive"):
        check_drain("i0", [shard(0)], cluster("i0", zones="a"), {}, {})
    dead = cluster("i2", silent={"i3": 5.0})
    with pytest.raises(RefusedError, match="each has a copy"):
        check_drain("i2", [shard(0, 1, 2)], dead, {}, {})


def test_a_drain_is_refused_when_bytes_or_operations_have_no_room() -> None:
    of = cluster("i0", zones="aaa")
    of = replace(
        of,
        instances={
            n: replace(r, capacity=CapacityRecord(ops_per_s=100.0, stored_bytes=1_000))
            for n, r in of.instances.items()
        },
    )
    shards = [shard(0, name=f"x/{n}") for n in range(4)]
    sizes = {s.shard: 450 for s in shards}
    check_drain("i0", shards, of, sizes, {})
    with pytest.raises(RefusedError, match="2 of them lack 450 bytes of room"):
        check_drain("i0", [*shards, shard(0, name="x/4")], of, {**sizes, "x/4": 450}, {})
    told = {
        name: DataStoreStatus(name, 0.0, Capacity(), ops_per_s=ops)
        for name, ops in (("i0", 90.0), ("i1", 60.0), ("i2", 60.0))
    }
    with pytest.raises(RefusedError, match="carries 90 ops/s, the others have 80 ops/s"):
        check_drain("i0", shards, of, {}, told)


def test_what_is_left_is_counted_by_role() -> None:
    learning = replace(shard(1, name="x/2"), learners=(Member("i0", 1, 7),))
    shards = [shard(0, 1, 2), shard(1, 0, name="x/1"), learning]
    left = left_on("i0", shards)
    assert (left.primaries, left.followers, left.learners, left.copies) == (1, 1, 1, 3)
