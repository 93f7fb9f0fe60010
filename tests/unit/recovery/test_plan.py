"""Metadata from copies: whole where a member of the newest in-sync set is left, else reported."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.recovery.facts import DiskScan, FoundCopy, FoundInstance, decode_scan, encode_scan
from coordinator.recovery.plan import RecoveryPlan, make_plan
from logstore.base.errors import RefusedError
from logstore.base.types import ShardStatus
from logstore.meta.records import LogOptions, LogRecord, Member, ShardRecord
from logstore.meta.tombstones import deletion_of
from sharder.keys import KeyRange, Partitioner
from tests.support.checkers.i1_cover import check_ranges
from tests.unit.recovery.model import CLUSTER, Life, chain


def lives(seed: int, instances: int, replicas: int, shards: int, steps: int) -> Life:
    life = Life(seed, instances, replicas, shards)
    life.live(steps)
    return life


clusters = st.builds(
    lives, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 40),
)  # fmt: skip
lost_sets = st.sets(st.sampled_from(["i0", "i1", "i2", "i3"]), max_size=3)


def members_left(life: Life, shard: str, lost: set[str]) -> list[Member]:
    return [m for m in life.records[shard].in_sync if m.instance not in lost]


@settings(max_examples=300, deadline=None)
@given(clusters, lost_sets, st.booleans())
def test_what_an_in_sync_member_is_left_of_is_whole(
    life: Life, lost: set[str], fill_holes: bool
) -> None:
    instances, copies = life.found(lost)
    if not instances:
        with pytest.raises(RefusedError):
            make_plan(instances, copies)
        return
    plan = make_plan(instances, copies, fill_holes=fill_holes)
    made = {s.shard: s for s in plan.shards}
    check_invented(plan, copies)
    check_above(plan, copies)
    for log in plan.logs:
        assert check_ranges(log.name, [s for s in plan.shards if s.log == log.name]) == []
    open_ = [s for s, r in life.records.items() if r.status is ShardStatus.OPEN]
    if all(members_left(life, s, lost) for s in open_):
        assert [log.name for log in plan.logs] == ["x"], plan.told
        assert plan.logs[0].options == life.log.options
    held = {(c.instance, c.replica_id): c for c in copies}
    for shard, acked in life.acked.items():
        if not members_left(life, shard, lost) or not plan.logs:
            continue
        record = made[shard]
        leader = held[record.primary.instance, record.primary.replica_id]
        assert leader.end >= acked
        assert (record.status is ShardStatus.SEALED) == (shard not in open_)
        if record.status is ShardStatus.SEALED:
            assert (record.sealed_end, record.sealed_chain) == (acked, chain(acked))
        assert [p for p in record.possible_loss if "in-sync" in p.cause] == []


def check_invented(plan: RecoveryPlan, copies: list[FoundCopy]) -> None:
    """Every member is a copy that was found, but those of shards over holes."""
    found = {(c.instance, c.replica_id, c.shard) for c in copies}
    names = {s.shard for s in plan.shards}
    ids = [m.replica_id for s in plan.shards for m in s.members()]
    assert len(ids) == len(set(ids))
    for shard in plan.shards:
        if shard.epoch == 1:
            assert [p.offset for p in shard.possible_loss] == [0]
            continue
        assert {(m.instance, m.replica_id, shard.shard) for m in shard.members()} <= found
        assert {*shard.predecessors, *shard.successors} <= names
        assert shard.primary in shard.in_sync
        assert len({m.instance for m in shard.members()}) == len(shard.members())


def check_above(plan: RecoveryPlan, copies: list[FoundCopy]) -> None:
    ids = {c.replica_id for c in copies}
    assert plan.next_replica_id > max([0, *ids, *(m.replica_id for s in plan.shards
                                                  for m in s.members())])  # fmt: skip
    assert plan.revision > max([0, *(c.revision for c in copies)])
    for shard in plan.shards:
        seen = [c for c in copies if c.shard == shard.shard]
        epochs = [c.last_epoch for c in seen] + [c.record.epoch for c in seen if c.record]
        assert not epochs or shard.epoch > max(epochs)
    numbers = [int(s.shard.rpartition("/")[2]) for s in plan.shards]
    seen_numbers = [c.number for c in copies]
    for log in plan.logs:
        assert log.next_shard > max([*numbers, *seen_numbers])


def test_all_disks_give_the_map_back_as_it_was() -> None:
    life = lives(5, 3, 3, 2, 60)
    plan = make_plan(*life.found(set()))
    made = {s.shard: s for s in plan.shards}
    assert set(made) == set(life.records)
    for shard, record in life.records.items():
        assert (made[shard].range, made[shard].predecessors) == (record.range, record.predecessors)
        assert set(made[shard].members()) == set(record.members())
        assert made[shard].possible_loss == record.possible_loss == ()
    assert [t.kind for t in plan.told if t.kind != "note"] == []


# ---- single cases ------------------------------------------------------------------------------

LOG = LogRecord("x", LogOptions(replicas=3, min_in_sync=2), 1, 77)
A, B, C = (Member(name, 5, n) for n, name in ((1, "a"), (2, "b"), (3, "c")))


def record(epoch: int, *in_sync: Member, learners: tuple[Member, ...] = ()) -> ShardRecord:
    return ShardRecord("x/0", "x", KeyRange(), ShardStatus.OPEN, epoch, epoch, in_sync[0], in_sync,
                       learners, min_in_sync=2)  # fmt: skip


def copy(member: Member, facts: ShardRecord, end: int, epoch: int, **more: Any) -> FoundCopy:
    made = FoundCopy(member.instance, member.replica_id, facts.shard, CLUSTER, "g", facts.epoch,
                     facts, LOG, 0, end, chain(end), epoch)  # fmt: skip
    return replace(made, **more)


def disks(*names: str) -> list[FoundInstance]:
    return [FoundInstance(name, CLUSTER, 5, 9, "g", 50, f"/d/{name}") for name in names]


def test_the_longest_of_the_newest_in_sync_set_leads_alone() -> None:
    new = record(7, A, B)
    stale = copy(C, record(6, A, B, C), 999, 5)
    plan = make_plan(disks("a", "b", "c"), [copy(A, new, 90, 7), copy(B, new, 100, 7), stale])
    made = plan.shards[0]
    assert (made.primary, made.in_sync, made.learners, made.admit) == (B, (B,), (A,), (1,))
    assert (made.epoch, made.primary_since) == (1_007, 1_007)
    assert made.possible_loss == ()
    assert ("note", "copy 3 of x/0 on c") in [(t.kind, t.subject) for t in plan.told]
    assert plan.records == {"x": 100}


def test_of_equals_the_primary_goes_on() -> None:
    new = replace(record(7, A, B, C), primary=B)
    plan = make_plan(disks("a", "b", "c"), [copy(m, new, 90, 7) for m in (A, B, C)])
    assert plan.shards[0].primary == B


def test_the_later_epoch_beats_the_longer_log() -> None:
    new = record(7, A, B)
    plan = make_plan(disks("a", "b"), [copy(A, new, 200, 6), copy(B, new, 100, 7)])
    assert plan.shards[0].primary == B


def test_none_of_the_newest_set_is_left_so_a_loss_is_possible_and_told() -> None:
    new = record(9, A, learners=(C,))
    old = copy(B, record(6, A, B), 100, 6)
    plan = make_plan(disks("b", "c"), [old, copy(C, new, 40, 9)])
    made = plan.shards[0]
    assert made.primary == C
    assert [(p.epoch, p.offset) for p in made.possible_loss] == [(1_009, 40)]
    assert [t.subject for t in plan.told if t.kind == "possible"] == ["x/0"]


@pytest.mark.parametrize("hurt", [{"damage": "a hole"}, {"retired": "moved"}])
def test_a_copy_that_is_hurt_or_retired_leads_only_when_nothing_else_is_there(
    hurt: dict[str, str],
) -> None:
    new = record(7, A, B)
    other = copy(A, new, 100, 7, **hurt)
    plan = make_plan(disks("a", "b"), [other, copy(B, new, 90, 7)])
    assert plan.shards[0].members() == (B,)
    alone = make_plan(disks("a"), [other])
    if "damage" in hurt:
        assert alone.shards == ()
        assert ("lost", "x/0") in [(t.kind, t.subject) for t in alone.told]
    else:
        assert alone.shards[0].primary == A
        assert len(alone.shards[0].possible_loss) == 1


def test_a_copy_whose_end_may_be_missing_leads_only_when_no_whole_one_is_there() -> None:
    new = record(7, A, B)
    short = copy(A, new, 100, 7, tail_lost=True)
    both = make_plan(disks("a", "b"), [short, copy(B, new, 90, 7)])
    assert both.shards[0].primary == B
    alone = make_plan(disks("a"), [short])
    assert alone.shards[0].primary == A
    assert ("possible", "x/0") in [(t.kind, t.subject) for t in alone.told]


def test_a_move_a_split_and_intents_under_way_are_dropped() -> None:
    busy = replace(record(7, A, B, learners=(C,)), migration="m1", hand_over=2, remove=(1,),
                   seal="r1", status=ShardStatus.SEALING, sealed_end=100, sealed_chain=chain(100),
                   route={"b": 0.5}, feed_topic="t")  # fmt: skip
    plan = make_plan(disks("a", "b", "c"), [copy(m, busy, 100, 7) for m in (A, B, C)])
    made = plan.shards[0]
    assert (made.migration, made.hand_over, made.remove, made.seal) == (None, None, (), None)
    assert (made.status, made.sealed_end, made.route) == (ShardStatus.OPEN, None, {})
    assert {m.instance for m in made.members()} == {"a", "b", "c"}


def test_a_lost_shard_leaves_its_log_out_unless_holes_are_filled() -> None:
    half = replace(record(3, A), range=KeyRange(b"", b"m"))
    found = [copy(A, half, 10, 3)]
    plan = make_plan(disks("a"), found)
    assert (plan.logs, plan.shards) == ((), ())
    assert [(t.kind, t.subject) for t in plan.told][:1] == [("left", "x")]
    assert "[b'm'" in plan.told[0].text.replace("['m'", "[b'm'")
    filled = make_plan(disks("a"), found, fill_holes=True)
    empty = filled.shards[1]
    assert (empty.shard, empty.range, empty.epoch) == ("x/1", KeyRange(b"m", None), 1)
    assert empty.primary.incarnation == 5
    assert len(empty.possible_loss) == 1
    assert filled.logs[0].next_shard == 2
    assert filled.next_replica_id > empty.primary.replica_id


def test_a_log_that_was_deleted_stays_deleted_until_it_is_wanted_back() -> None:
    new = record(7, A, B)
    gone = copy(A, new, 100, 7, retired=deletion_of("x"), retired_revision=50)
    away = copy(B, new, 100, 7)
    plan = make_plan(disks("a", "b"), [gone, away])
    assert plan.logs == ()
    assert "log restore x" in plan.told[0].text
    back = make_plan(disks("a", "b"), [gone, replace(away, retired=deletion_of("x"))], revive=True)
    assert {m.instance for m in back.shards[0].members()} == {"a", "b"}
    assert back.shards[0].possible_loss == ()


@pytest.mark.parametrize(("epoch", "revision"), [(7, 60), (1_007, 3)])
def test_a_log_that_was_brought_back_is_not_taken_for_deleted(epoch: int, revision: int) -> None:
    left = copy(A, record(7, A, B), 100, 7, retired=deletion_of("x"), retired_revision=50)
    back = copy(B, record(epoch, B), 100, 7, revision=revision)
    plan = make_plan(disks("a", "b"), [left, back])
    assert [s.members() for s in plan.shards] == [(B,)]
    assert plan.shards[0].possible_loss == ()


def test_only_the_newest_log_of_a_name_counts() -> None:
    before = copy(A, record(900, A), 500, 900, log=replace(LOG, created_us=1))
    plan = make_plan(disks("a", "b"), [before, copy(B, record(2, B), 10, 2)])
    assert plan.shards[0].members() == (B,)


def test_copies_of_another_cluster_or_without_records_are_left_alone() -> None:
    mine = copy(A, record(2, A), 10, 2)
    foreign = copy(B, record(90, B), 900, 90, cluster="other")
    bare = copy(C, record(91, C), 900, 91, record=None)
    plan = make_plan(disks("a", "b", "c"), [mine, foreign, bare])
    assert plan.shards[0].members() == (A,)
    assert [t.kind for t in plan.told if "copy" in t.subject] == ["left", "left"]


def test_directories_that_do_not_belong_together_are_refused() -> None:
    other = FoundInstance("b", "c2", 5, 9, "g", 50, "/d/b")
    with pytest.raises(RefusedError, match=r"2 clusters.*c1: /d/a.*c2: /d/b"):
        make_plan([*disks("a"), other], [])
    with pytest.raises(RefusedError, match="two directories are those of instance a"):
        make_plan([*disks("a"), *disks("a")], [])
    with pytest.raises(RefusedError, match="before they knew their cluster"):
        make_plan([FoundInstance("a", "")], [])


def test_a_balanced_log_without_its_mapping_is_told() -> None:
    balanced = replace(LOG, options=LogOptions(Partitioner.BALANCED))
    plan = make_plan(disks("a"), [copy(A, record(2, A), 10, 2, log=balanced)])
    assert next(t.text for t in plan.told if t.kind == "lost").startswith("x.placement was not")


@settings(max_examples=30, deadline=None)
@given(clusters)
def test_a_scan_comes_back_from_its_file_as_it_was(life: Life) -> None:
    instances, copies = life.found(set())
    scan = DiskScan(tuple(instances), tuple(copies))
    assert decode_scan(encode_scan(scan)) == scan


def test_epochs_say_what_is_newer_where_a_recovery_began_with_lower_revisions() -> None:
    before, after = record(7, A, B), record(1_007, C, learners=(A,))
    old = copy(A, before, 500, 7, revision=90_000)
    new = copy(C, after, 100, 1_007, revision=12)
    assert make_plan(disks("a", "c"), [old, new]).shards[0].primary == C


def test_open_shards_over_the_same_keys_are_of_two_histories_and_the_newer_one_counts() -> None:
    older, newer = record(3, A), replace(record(3, B), shard="x/4", range=KeyRange(b"", b"m"))
    rest = replace(record(3, C), shard="x/5", range=KeyRange(b"m", None))
    found = [copy(A, older, 10, 3, revision=5), copy(B, newer, 10, 3, revision=9),
             copy(C, rest, 10, 3, revision=9)]  # fmt: skip
    plan = make_plan(disks("a", "b", "c"), found)
    assert {s.shard for s in plan.shards} == {"x/4", "x/5"}
    assert ("left", "x/0", "x/4 is newer and holds the same keys") in [
        (t.kind, t.subject, t.text) for t in plan.told
    ]
