"""What a client learns of replicas, and what it does about those that are slow or silent."""

import random
from dataclasses import replace

from logstore.client.replicas import (
    AVOID_S_FIRST,
    HEDGE_SHARE_MAX,
    HEDGES_SAVED_MAX,
    SILENT_S,
    Replicas,
)
from sharder.keys import KeyRange
from sharder.shard_map import Shard, ShardStatus

SPREAD = Shard(
    id="orders/0",
    log="orders",
    range=KeyRange(),
    epoch=3,
    primary="a",
    in_sync=("a", "b", "c"),
    status=ShardStatus.OPEN,
    addresses={name: f"{name}:1" for name in "abc"},
    spread_reads=True,
)


def replicas() -> Replicas:
    return Replicas(random.Random(1))


def chosen(seen: Replicas, now_s: float, count: int = 300) -> set[str]:
    return {seen.choose(SPREAD, now_s, primary=False) for _ in range(count)}


def test_a_read_is_hedged_after_the_p99_of_the_replica_that_it_asks() -> None:
    seen = replicas()
    assert seen.delay_s("b", "key") == SILENT_S  # nothing is known yet
    for n in range(100):
        seen.answered("b", "key", 0.030 if n in (50, 90) else 0.010)
        seen.answered("a", "key", 0.0001)
    assert seen.delay_s("b", "key") == 0.030
    assert seen.delay_s("a", "key") == 0.005
    assert seen.delay_s("b", "scan") == SILENT_S
    for _ in range(200):
        seen.answered("b", "key", 7.0)
    assert seen.delay_s("b", "key") == SILENT_S


def test_hedges_are_a_bounded_share_of_the_reads() -> None:
    seen, hedges = replicas(), 0
    for _ in range(2_000):
        seen.choose(SPREAD, 0.0, primary=False)
        hedges += seen.may_hedge()
    assert 0.9 * HEDGE_SHARE_MAX * 2_000 <= hedges <= HEDGE_SHARE_MAX * 2_000 + 1
    for _ in range(2_000):
        seen.choose(SPREAD, 0.0, primary=False)
    assert sum(seen.may_hedge() for _ in range(100)) == HEDGES_SAVED_MAX


def test_a_silent_replica_is_left_and_tried_again_by_one_read_each_time() -> None:
    seen = replicas()
    assert chosen(seen, 0.0) == {"a", "b", "c"}
    for _ in range(5):  # five reads waited for it at the same time
        seen.overtaken("b", 10.0, 10.0 + SILENT_S)
    left_s = 10.0 + SILENT_S
    assert chosen(seen, left_s) == {"a", "c"}
    assert seen.others(SPREAD, "a", left_s)[-1] == "b"
    again_s = left_s + AVOID_S_FIRST
    tried = [seen.choose(SPREAD, again_s, primary=False) for _ in range(300)]
    assert tried.count("b") == 1
    seen.overtaken("b", again_s, again_s + 0.01)  # silent as before: no wait for SILENT_S
    assert chosen(seen, again_s + 1.9 * AVOID_S_FIRST) == {"a", "c"}
    assert "b" in chosen(seen, again_s + 0.01 + 2 * AVOID_S_FIRST)
    seen.heard("b", again_s + 3.0)
    tried = [seen.choose(SPREAD, again_s + 3.0, primary=False) for _ in range(300)]
    assert tried.count("b") > 50


def test_a_slow_replica_that_answers_others_is_not_left() -> None:
    seen = replicas()
    seen.heard("b", 10.2)
    seen.overtaken("b", 10.0, 10.0 + 2 * SILENT_S)
    seen.overtaken("c", 10.0, 10.1)  # too soon to call it silent
    assert chosen(seen, 11.0) == {"a", "b", "c"}
    assert not seen.is_silent("b", 10.0)


def test_the_target_of_a_move_is_hedged_to_once_it_has_a_share() -> None:
    seen = replicas()
    moving = replace(SPREAD, spread_reads=False)
    assert seen.others(moving, "a", 0.0) == []
    ramped = replace(moving, route={"c": 0.5})
    assert seen.others(ramped, "a", 0.0) == ["c"]
    assert seen.others(ramped, "c", 0.0) == ["a"]
    assert sorted(seen.others(SPREAD, "b", 0.0)) == ["a", "c"]
