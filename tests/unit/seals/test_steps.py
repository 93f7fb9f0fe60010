"""The steps of a seal, pure: the primary's machine (S1), and what the coordinator decides."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from coordinator.migration import reshape
from coordinator.migration.reshape import (
    RESHAPE_TABLE,
    ReshapeCommit,
    ReshapeFacts,
    ReshapePhase,
    ReshapeRecord,
    ReshapeState,
    ReshapeWait,
)
from logstore.base.errors import IllegalTransitionError
from logstore.base.types import ShardStatus
from logstore.meta.records import LogOptions, LogRecord, Member, ShardRecord
from logstore.replication.events import (
    Assigned,
    Cas,
    Effect,
    PeerAcked,
    SetAppendGate,
    Tick,
    Written,
)
from sharder.keys import KeyRange
from tests.unit.replication.test_machine import Bench, T, at, in_sync_pair


def asked_to_seal(bench: Bench) -> list[Effect]:
    record = bench.machine.record
    assert record is not None
    return bench.config(replace(record, seal="r1", migration="r1"))


def cas_of(effects: list[Effect]) -> ShardRecord:
    (found,) = [e.record for e in effects if isinstance(e, Cas)]
    return found


def test_the_primary_stops_then_drains_then_seals() -> None:
    bench = in_sync_pair()
    assert bench.machine.record is not None
    bench.feed(Assigned(at(5)))
    assert asked_to_seal(bench) == [SetAppendGate(False)]
    assert bench.feed(Written(at(5))) == []  # the follower has yet to hold it
    sealing = cas_of(bench.feed(PeerAcked(T.replica_id, bench.machine.epoch, at(5))))
    assert (sealing.status, sealing.sealed_end) == (ShardStatus.SEALING, 5)
    assert sealing.sealed_chain == at(5).chain
    assert not bench.machine.admitting


def test_nothing_is_admitted_until_the_outcome_was_read() -> None:
    bench = in_sync_pair()
    before = bench.machine.record
    assert before is not None
    effects = asked_to_seal(bench)
    assert not bench.machine.admitting
    for _ in range(100):
        bench.now_s += 1.0
        assert SetAppendGate(True) not in bench.feed(Tick())  # no timeout is an outcome
    bench.win(effects)
    assert not bench.machine.admitting
    sealed = bench.machine.record
    assert sealed is not None
    bench.config(replace(sealed, status=ShardStatus.SEALED, seal=None, successors=("orders/1",)))
    bench.now_s += 100
    assert SetAppendGate(True) not in bench.feed(Tick())


def test_a_seal_that_loses_its_race_is_decided_anew() -> None:
    bench = in_sync_pair()
    asked_to_seal(bench)
    record = bench.machine.record
    assert record is not None
    taken_back = replace(record, seal=None, migration=None)
    assert SetAppendGate(True) in bench.config(taken_back)  # the coordinator's write came first


def test_a_seal_without_successors_is_opened_again_by_a_cas() -> None:
    bench = in_sync_pair()
    bench.win(asked_to_seal(bench))
    bench.now_s += bench.machine.timing.seal_timeout_s - 1
    bench.feed(PeerAcked(T.replica_id, bench.machine.epoch, at(0)))
    bench.now_s += 1.1
    effects = bench.feed(Tick())
    again = cas_of(effects)
    assert (again.status, again.seal, again.sealed_end) == (ShardStatus.OPEN, None, None)
    assert not bench.machine.admitting
    assert SetAppendGate(True) in bench.win(effects)


def test_a_seal_that_does_not_drain_is_given_up() -> None:
    bench = in_sync_pair()
    bench.feed(Assigned(at(5)))
    asked_to_seal(bench)
    bench.now_s += 1.9
    bench.feed(PeerAcked(T.replica_id, bench.machine.epoch, at(0)))
    for _ in range(3):
        bench.now_s += 1.5
        effects = bench.feed(PeerAcked(T.replica_id, bench.machine.epoch, at(0)))
    assert cas_of(effects).seal is None


# ---- the coordinator -------------------------------------------------------------------------

A, B = Member("a", 1, 1), Member("b", 1, 2)
LOG = LogRecord("orders", LogOptions(), 7, 0)


def shard(name: str, keys: KeyRange, **fields: object) -> ShardRecord:
    base = ShardRecord(name, "orders", keys, ShardStatus.OPEN, 3, 1, A, (A, B))
    return replace(base, **fields)  # type: ignore[arg-type]


def record(state: ReshapeState = ReshapeState.PLANNED, **fields: object) -> ReshapeRecord:
    base = ReshapeRecord(
        "r1", "orders", "merge", ("orders/0", "orders/1"), 0, state=state,
        phases=(ReshapePhase(state, 0),),
    )  # fmt: skip
    return replace(base, **fields)  # type: ignore[arg-type]


LEFT, RIGHT = KeyRange(b"", b"m"), KeyRange(b"m", None)
SEALING = {"migration": "r1", "seal": "r1", "status": ShardStatus.SEALING, "sealed_end": 9,
           "sealed_chain": bytes(16)}  # fmt: skip


def decide(made: ReshapeRecord, *parents: ShardRecord, now_us: int = 1) -> ReshapeCommit:
    effect = reshape.decide(made, facts({p.shard: p for p in parents}, now_us))
    assert isinstance(effect, ReshapeCommit)
    return effect


def facts(parents: Mapping[str, ShardRecord], now_us: int = 1) -> ReshapeFacts:
    return ReshapeFacts(now_us, parents, LOG, 50)


def test_a_merge_waits_for_both_and_opens_one() -> None:
    left = shard("orders/0", LEFT, **SEALING)
    half = {"orders/0": left, "orders/1": shard("orders/1", RIGHT, migration="r1", seal="r1")}
    assert isinstance(reshape.decide(record(ReshapeState.SEALING), facts(half)), ReshapeWait)
    done = decide(record(ReshapeState.SEALING), left, shard("orders/1", RIGHT, **SEALING))
    (made,) = done.created
    assert (made.shard, made.range, made.predecessors) == (
        "orders/7", KeyRange(b"", None), ("orders/0", "orders/1"))  # fmt: skip
    assert [(m.instance, m.replica_id) for m in made.in_sync] == [("a", 50), ("b", 51)]
    assert {(s.status, s.successors, s.migration) for s in done.shards} == {
        (ShardStatus.SEALED, ("orders/7",), None)
    }
    assert done.log is not None
    assert (done.log.next_shard, done.drawn) == (8, 2)


def test_the_boundary_key_belongs_to_the_upper_part() -> None:
    parent = shard("orders/0", KeyRange(), **SEALING)
    made = record(ReshapeState.SEALING, kind="split", parents=("orders/0",), at=b"m")
    low, high = decide(made, parent).created
    assert (low.range, high.range) == (LEFT, RIGHT)
    assert b"m" in high.range
    assert b"m" not in low.range


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seal": None, "status": ShardStatus.OPEN}, "gave up"),
        ({"migration": "m3"}, "is in m3"),
        ({"in_sync": (A,)}, "in-sync sets differ"),
        ({"primary": B}, "move one first"),
    ],
)
def test_one_parent_that_fails_frees_the_other(change: dict[str, object], why: str) -> None:
    left = shard("orders/0", LEFT, **SEALING)
    right = shard("orders/1", RIGHT, **{**SEALING, **change})
    effect = decide(record(ReshapeState.SEALING), left, right)
    assert effect.record.state is ReshapeState.ABORTED
    assert why in (effect.record.cause or "")
    freed = {s.shard: s for s in effect.shards}
    assert freed["orders/0"].status is ShardStatus.OPEN
    assert not effect.created
    assert all(s.sealed_end is None and s.seal is None for s in effect.shards)


def test_a_seal_that_takes_too_long_is_aborted() -> None:
    parents = [shard("orders/0", LEFT, migration="r1", seal="r1"), shard("orders/1", RIGHT)]
    late = decide(record(ReshapeState.SEALING), *parents, now_us=31_000_000)
    assert late.record.state is ReshapeState.ABORTED
    assert "not sealed within 30 s" in (late.record.cause or "")


def test_only_steps_of_the_table_are_taken() -> None:
    for state, to in RESHAPE_TABLE.items():
        for other in ReshapeState:
            if other in to:
                assert reshape.advance(record(state), other, 1).state is other
            else:
                with pytest.raises(IllegalTransitionError, match="cannot go from"):
                    reshape.advance(record(state), other, 1)
