"""Repair and drain, as decided: which step comes next for a shard."""

from dataclasses import replace

import pytest

from coordinator.catalog.catalog import Catalog
from coordinator.catalog.replica_placement import PlacementState
from coordinator.migration.ledger import Ledger, Proposal
from coordinator.migration.records import MigrationRecord
from coordinator.replicas.drain import check_drain, left_on
from coordinator.replicas.repair import RepairLoop, decide, with_copy
from logstore.base.env import Env
from logstore.base.errors import RefusedError
from logstore.base.types import ShardStatus
from logstore.meta.port import Put
from logstore.meta.records import (
    CapacityRecord,
    InstanceRecord,
    LogOptions,
    Member,
    ShardRecord,
    decode_shard,
    encode,
    instance_key,
    shard_key,
)
from profiler.types import Capacity, DataStoreStatus
from sharder.keys import KeyRange
from tests.unit.coordinator.tombstones import WatchedStore

OPTIONS = LogOptions(replicas=3, min_in_sync=2)


def cluster(
    *draining: str, silent: dict[str, float] | None = None, zones: str = "abcd"
) -> PlacementState:
    """Instances i0, i1 … in the zones given."""
    instances = {
        f"i{n}": InstanceRecord(f"i{n}", f"h:{n}", 1, zone=f"zone-{zone}")
        for n, zone in enumerate(zones)
    }
    return PlacementState(instances, silent or {}, {}, 30.0, frozenset(draining))


def shard(*on: int, name: str = "x/0") -> ShardRecord:
    members = tuple(Member(f"i{n}", 1, n + 1) for n in on)
    return ShardRecord(
        shard=name, log="x", range=KeyRange(b"", None), status=ShardStatus.OPEN, epoch=1,
        primary_since=1, primary=members[0], in_sync=members, min_in_sync=2,
    )  # fmt: skip


def test_a_whole_shard_is_left_alone() -> None:
    assert decide(shard(0, 1, 2), OPTIONS, cluster()) is None
    assert decide(shard(0, 1, 2), OPTIONS, cluster("i3")) is None


def emptied(record: ShardRecord, of: PlacementState, options: LogOptions = OPTIONS) -> list[str]:
    """Take every step at once, as the primary would; returns why each was taken."""
    story: list[str] = []
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
        "i0 is draining: i1 must lead",
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


def test_a_learner_that_nobody_needs_any_more_goes() -> None:
    """Its place was taken before a drain was cancelled; then it fell out."""
    late = replace(shard(0, 1, 2), learners=(Member("i3", 1, 9),))
    step = decide(late, OPTIONS, cluster())
    assert step is not None
    assert (step.record.learners, step.why) == ((), "i3 is one too many")
    assert emptied(late, cluster()) == ["i3 is one too many"]


def test_a_learner_that_is_needed_may_join() -> None:
    late = replace(shard(0, 1), learners=(Member("i3", 1, 9),))
    assert emptied(late, cluster()) == ["i3 may join"]


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


def test_a_drain_is_refused_when_another_one_needs_the_place() -> None:
    """Of four instances two are left for three copies."""
    with pytest.raises(RefusedError, match="has no place: 2 other instances"):
        check_drain("i0", [shard(0, 1, 2)], cluster("i0", "i1"), {}, {})
    check_drain("i0", [shard(0, 2)], cluster("i0", "i1"), {}, {})
    with pytest.raises(RefusedError, match="has no place"):  # one is away just now
        check_drain("i0", [shard(0, 2)], cluster("i0", "i1"), {}, {}, {"x": 3})


def test_an_empty_instance_that_others_need_is_not_drained() -> None:
    three = {"x": 3}
    with pytest.raises(RefusedError, match="i3 cannot be drained: shard x/0 has no place"):
        check_drain("i3", [shard(0, 1, 2)], cluster("i2", "i3"), {}, {}, three)
    with pytest.raises(RefusedError, match="i3 cannot be drained: shard x/0 has no place"):
        check_drain("i3", [shard(0, 1)], cluster("i2", "i3"), {}, {}, three)
    check_drain("i3", [shard(0, 1, 2)], cluster("i3"), {}, {}, three)


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
    answer = {
        name: DataStoreStatus(name, 0.0, Capacity(), ops_per_s=ops)
        for name, ops in (("i0", 90.0), ("i1", 60.0), ("i2", 60.0))
    }
    with pytest.raises(RefusedError, match="carries 90 ops/s, the others have 80 ops/s"):
        check_drain("i0", shards, of, {}, answer)


def test_what_is_left_is_counted_by_role() -> None:
    learning = replace(shard(1, name="x/2"), learners=(Member("i0", 1, 7),))
    shards = [shard(0, 1, 2), shard(1, 0, name="x/1"), learning]
    left = left_on("i0", shards)
    assert (left.primaries, left.followers, left.learners, left.copies) == (1, 1, 1, 3)


def move(source: int, target: int, strategy: str = "shadow") -> MigrationRecord:
    """Of shard x/0; its target's copy has id 50."""
    return MigrationRecord(
        "m1", "x", "x/0", Member(f"i{source}", 1, source + 1), f"i{target}", 0, strategy,
        target=Member(f"i{target}", 1, 50),
    )  # fmt: skip


def moving(*in_sync: int, fell_out: tuple[int, ...] = (), target: bool = False) -> ShardRecord:
    """x/0 in migration m1 to i3. `target`: its copy is in sync, else it learns."""
    copy = Member("i3", 1, 50)
    record = shard(*in_sync)
    learners = tuple(Member(f"i{n}", 1, n + 1) for n in fell_out)
    return replace(
        record,
        in_sync=(*record.in_sync, *((copy,) if target else ())),
        learners=learners if target else (copy, *learners),
        migration="m1",
    )


@pytest.mark.parametrize("strategy", ["shadow", "log-shipping"])
def test_in_a_move_a_follower_that_fell_out_comes_back(strategy: str) -> None:
    """Else the shard, too few in sync, acks nothing until the target is admitted."""
    record = moving(0, 1, fell_out=(2,))
    step = decide(record, OPTIONS, cluster(), move(0, 3, strategy))
    assert step is not None
    assert step.record == replace(record, admit=(3,)), "and not the target, which is unverified"
    assert decide(step.record, OPTIONS, cluster(), move(0, 3, strategy)) is None
    silent = cluster(silent={"i2": 5.0})
    assert decide(record, OPTIONS, silent, move(0, 3, strategy)) is None


def test_in_a_move_the_old_primary_comes_back_until_the_target_leads() -> None:
    step = decide(moving(1, 2, fell_out=(0,)), OPTIONS, cluster(), move(0, 3))
    assert step is not None
    assert step.record.admit == (1,)
    led = moving(1, 2, fell_out=(0,), target=True)
    led = replace(led, primary=led.in_sync[-1])
    assert decide(led, OPTIONS, cluster(), move(0, 3)) is None, "H4: it is verified first"
    step = decide(
        replace(led, in_sync=led.in_sync[1:]), OPTIONS, cluster(zones="abcde"), move(0, 3)
    )
    assert step is not None
    assert step.add is not None
    assert step.add.instance == "i1", "beside the target and the source one is missing"


def test_in_a_move_a_lost_copy_is_replaced_elsewhere_than_on_the_target() -> None:
    silent = cluster(silent={"i2": 31.0}, zones="abcde")
    record = moving(0, 1, fell_out=(2,))
    step = decide(record, OPTIONS, silent, move(0, 3))
    assert step is not None
    assert step.record.learners == (Member("i3", 1, 50),)
    step = decide(step.record, OPTIONS, silent, move(0, 3))
    assert step is not None
    assert step.add is not None
    assert step.add.instance == "i4"
    learning = with_copy(step.record, step.add, 100)
    assert decide(learning, OPTIONS, silent, move(0, 3)) is None, "one copy is on its way"
    gone = replace(record, learners=())  # the target is not added yet, its place is taken
    assert decide(gone, OPTIONS, cluster(silent={"i2": 31.0}), move(0, 3)) is None


def test_in_a_move_that_goes_back_the_source_may_be_learned_again() -> None:
    """The target may not leave (`min_in_sync`) before another copy is there."""
    gone = replace(moving(1, target=True), remove=(50,))
    two = LogOptions(replicas=2, min_in_sync=2)
    step = decide(gone, two, cluster(zones="abc", silent={"i2": 5.0}), move(0, 3))
    assert step is not None
    assert step.add is not None
    assert step.add.instance == "i0"


def test_in_a_switch_nothing_is_missing_and_what_is_comes_back() -> None:
    whole = replace(shard(0, 1, 3), migration="m1")
    assert decide(whole, OPTIONS, cluster(), move(0, 3, "switch")) is None
    fell_out = replace(shard(0, 3), migration="m1", learners=(Member("i1", 1, 2),))
    for primary in fell_out.in_sync:
        step = decide(replace(fell_out, primary=primary), OPTIONS, cluster(), move(0, 3, "switch"))
        assert step is not None
        assert step.record.admit == (2,)


def test_in_a_move_nothing_is_done_without_need_or_during_a_hand_over() -> None:
    assert decide(moving(0, 1, 2), OPTIONS, cluster(), move(0, 3)) is None
    assert decide(moving(0, 1, 2), OPTIONS, cluster("i1"), move(0, 3)) is None, "drained later"
    short = moving(0, 1, fell_out=(2,), target=True)
    assert decide(short, OPTIONS, cluster(), move(0, 3)) is not None
    handing = replace(short, hand_over=50)
    assert decide(handing, OPTIONS, cluster(), move(0, 3)) is None
    cow = move(0, 3, "copy-on-write")
    assert decide(short, OPTIONS, cluster(), cow) is None
    assert decide(short, OPTIONS, cluster()) is None, "a split or merge"


def test_in_a_move_a_drained_copy_joins_where_nobody_else_has_room() -> None:
    """Else the source, which may not leave (`min_in_sync`), and the drain wait for each other."""
    two = LogOptions(replicas=2, min_in_sync=2)
    late = replace(moving(0, fell_out=(2,), target=True), remove=(1,))
    late = replace(late, primary=late.in_sync[-1])
    step = decide(late, two, cluster("i2", silent={"i1": 5.0}), move(0, 3))
    assert step is not None
    assert step.record.admit == (3,)
    step = decide(late, two, cluster("i2"), move(0, 3))
    assert step is not None
    assert step.add is not None
    assert step.add.instance == "i1", "an instance that stays is better"


async def test_a_lost_learner_leaves_with_a_tombstone() -> None:
    store, env = WatchedStore(), Env()
    for record in cluster().instances.values():
        await store.txn([], [Put(instance_key(record.instance), encode(record))])
    catalog = Catalog(store, env, "c")
    made = (await catalog.create("x", OPTIONS, 1, instances=["i0"])).shards[0]
    gone = made.learners[0]
    silent = lambda names: {n: 99.0 if n == gone.instance else 0.0 for n in names}  # noqa: E731
    loop = RepairLoop(store, catalog, silent, 30.0)
    assert await loop.round() == 1
    graves = await store.tombstones()
    assert [(t.instance, t.replica_id, t.cause, t.keep_s) for t in graves] == [
        (gone.instance, gone.replica_id, f"repair: {gone.instance} is lost", 600.0)
    ]
    assert {t.cluster for t in graves} == {"c"}


async def test_the_loop_repairs_a_shard_whose_move_is_paused() -> None:
    store, env = WatchedStore(), Env()
    for record in cluster().instances.values():
        await store.txn([], [Put(instance_key(record.instance), encode(record))])
    catalog, ledger = Catalog(store, env, "c"), Ledger(store, env)
    made = await catalog.create("x", OPTIONS, 1, instances=["i0"])
    first = made.shards[0]
    whole = replace(first, in_sync=first.members(), learners=(), admit=())
    target = next(i for i in cluster().instances if whole.member_on(i) is None)
    begun = await ledger.propose(Proposal("x/0", target, "shadow"))
    await ledger.order(begun.id, "pause")
    out = whole.in_sync[-1]
    copy = Member(target, 1, 50)
    moved = replace(whole, in_sync=whole.in_sync[:-1], learners=(copy, out), migration=begun.id)
    await store.txn([], [Put(shard_key("x/0"), encode(moved))])
    loop = RepairLoop(store, catalog, lambda names: dict.fromkeys(names, 0.0), 30.0)
    assert await loop.round() == 1
    found = await store.get(shard_key("x/0"))
    assert found is not None
    assert decode_shard(found.value) == replace(moved, admit=(out.replica_id,))
    assert await loop.round() == 0
