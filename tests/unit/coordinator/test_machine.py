"""The migration machine and driver, killed and disturbed between any two effects (I7)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coordinator.migration.records import MoveOptions, State
from coordinator.migration.windows import SideWindow
from logstore.base.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    UnavailableError,
)
from logstore.meta.memory import MemoryMetadataStore
from logstore.meta.port import Compare, Operation, Put, TxnResult
from logstore.meta.records import ShardRecord, decode_shard, encode, shard_key
from profiler.histogram import LatencyHistogram
from tests.unit.coordinator.model import QUICK, SHARD, Cluster, World

STRAIGHT = [
    "planned",
    "preparing",
    "snapshot",
    "catching-up",
    "verifying",
    "shadowing",
    "ramping",
    "cutover",
    "soaking",
    "completed",
]
BEFORE_END = [State(name) for name in STRAIGHT[:-1]]


def relieved(shard: ShardRecord, winner: str) -> bool:
    """Only the winner is left and every intent is withdrawn."""
    return (
        [m.instance for m in shard.members()] == [winner]
        and shard.primary.instance == winner
        and shard.migration is None
        and (shard.admit, shard.hand_over, shard.remove, shard.route) == ((), None, (), {})
    )


async def reach(world: World, state: State) -> None:
    for _ in range(1_000):
        if (await world.record()).state is state:
            return
        assert await world.step()
    raise AssertionError(f"{state} was not reached")


async def test_a_move_goes_straight_through_and_confirms() -> None:
    world = World()
    await world.begin()
    record = await world.run()
    assert [p.state.value for p in record.phases] == STRAIGHT
    assert [p.at_us for p in record.phases] == sorted(p.at_us for p in record.phases)
    assert record.hash is not None
    assert record.hash.equal
    assert (record.bytes, record.copy_mb_per_s, record.blackout_ms) == (1_000_000, 10.0, 7.5)
    assert record.soaked_s >= QUICK.soak_s
    assert relieved(await world.cluster.shard(), "b")


async def test_a_driver_killed_after_any_step_is_followed_by_one_that_goes_on() -> None:
    world = World()
    await world.begin()
    total = 0
    while await world.step():
        total += 1
    for n in range(total):
        world = World()
        await world.begin()
        for _ in range(n):
            await world.step()
        world.kill_driver()
        record = await world.run()
        assert record.state is State.COMPLETED, n
        assert relieved(await world.cluster.shard(), "b"), n


SWITCH = [State.PLANNED, State.PREPARING, State.CUTOVER, State.SOAKING]


def both_stay(shard: ShardRecord, leader: str) -> bool:
    return (
        {m.instance for m in shard.in_sync} == {"a", "b"}
        and not shard.learners
        and shard.primary.instance == leader
        and (shard.migration, shard.hand_over, shard.remove, shard.route) == (None, None, (), {})
    )


async def test_a_switch_copies_nothing_and_keeps_both_replicas() -> None:
    world = World()
    await world.begin(strategy="switch")
    record = await world.run()
    assert [p.state for p in record.phases] == [*SWITCH, State.COMPLETED]
    assert record.blackout_ms == 7.5
    assert both_stay(await world.cluster.shard(), "b")


@pytest.mark.parametrize("state", SWITCH[1:])
async def test_a_switch_rolls_back_and_survives_its_driver(state: State) -> None:
    world = World()
    await world.begin(strategy="switch")
    await reach(world, state)
    world.kill_driver()
    await world.driver.order(world.id, "rollback")
    assert (await world.run()).state is State.ROLLED_BACK
    assert both_stay(await world.cluster.shard(), "a")


async def test_a_switch_goes_back_after_a_failover_that_came_before_its_hand_over() -> None:
    """Found by the simulator: the target led before the move had written who the target is."""
    world = World()
    await world.begin(strategy="switch")
    await reach(world, State.PREPARING)
    found = await world.cluster.store.get(shard_key(SHARD))
    assert found is not None
    shard = decode_shard(found.value)
    source, target = shard.in_sync
    taken = replace(shard, epoch=2, primary=target, in_sync=(target,), learners=(source,))
    await world.cluster.store.txn([], [Put(found.key, encode(taken))])
    await world.driver.order(world.id, "rollback")
    assert (await world.run()).state is State.ROLLED_BACK
    assert both_stay(await world.cluster.shard(), "a")


async def test_a_switch_that_is_not_handed_over_is_tried_again_then_rolled_back() -> None:
    world = World()
    await world.begin(replace(QUICK, setbacks_max=2), "switch")
    world.cluster.hands_over = False
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert [p.state for p in record.phases].count(State.CUTOVER) == 3
    assert both_stay(await world.cluster.shard(), "a")


@pytest.mark.parametrize("state", SWITCH[1:])
@pytest.mark.parametrize("victim", ["a", "b"])
async def test_a_switch_ends_well_when_an_instance_dies(state: State, victim: str) -> None:
    world = World()
    await world.begin(strategy="switch")
    await reach(world, state)
    world.cluster.up.discard(victim)
    for _ in range(20):
        if not await world.step():
            break
    world.cluster.up.add(victim)
    record = await world.run()
    assert record.state in (State.COMPLETED, State.ROLLED_BACK)
    leader = "b" if record.state is State.COMPLETED else "a"
    assert (await world.cluster.shard()).primary.instance == leader


async def test_log_shipping_has_no_ramp() -> None:
    world = World()
    await world.begin(strategy="log-shipping")
    record = await world.run()
    assert [p.state.value for p in record.phases] == [s for s in STRAIGHT if s != "ramping"]
    assert relieved(await world.cluster.shard(), "b")


async def test_log_shipping_that_is_not_handed_over_verifies_again() -> None:
    world = World()
    await world.begin(replace(QUICK, setbacks_max=3), "log-shipping")
    world.cluster.hands_over = False
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert relieved(await world.cluster.shard(), "a")


class Flaky(MemoryMetadataStore):
    """Every third transaction is applied, but its answer is lost."""

    count = 0

    async def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnResult:
        result = await super().txn(compares, operations)
        self.count += 1
        if self.count % 3 == 0 and result.succeeded:
            raise UnavailableError("the answer was lost")
        return result


async def test_a_lost_answer_is_resolved_by_reading() -> None:
    cluster = Cluster()
    flaky = Flaky()
    flaky._tables = cluster.store._tables
    world = World(flaky, cluster)
    await world.begin()
    record = await world.run()
    assert record.state is State.COMPLETED
    assert record.setbacks == 0
    assert flaky.count > 10


@pytest.mark.parametrize("state", BEFORE_END)
async def test_rollback_from_every_state_loses_nothing(state: State) -> None:
    world = World()
    await world.begin()
    await reach(world, state)
    await world.driver.order(world.id, "rollback", "second thoughts")
    record = await world.run()
    expected = State.ABORTED if state is State.PLANNED else State.ROLLED_BACK
    assert record.state is expected
    assert record.cause == "second thoughts"
    assert relieved(await world.cluster.shard(), "a")


@pytest.mark.parametrize("state", BEFORE_END[1:])
@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("steps", [3, 60])
async def test_an_instance_that_dies_and_returns_ends_well(
    state: State, victim: str, steps: int
) -> None:
    world = World()
    await world.begin()
    await reach(world, state)
    world.cluster.up.discard(victim)
    for _ in range(steps):
        if not await world.step():
            break
    world.cluster.up.add(victim)
    record = await world.run()
    assert record.state in (State.COMPLETED, State.ROLLED_BACK)
    assert relieved(await world.cluster.shard(), "b" if record.state is State.COMPLETED else "a")


@pytest.mark.parametrize("state", BEFORE_END[1:-2])
async def test_a_target_that_never_returns_is_rolled_back_by_itself(state: State) -> None:
    world = World()
    quick = {f"{name.replace('-', '_')}_timeout_s": 5.0 for name in STRAIGHT[1:-2]}
    await world.begin(replace(QUICK, **quick))  # type: ignore[arg-type]
    await reach(world, state)
    world.cluster.up.discard("b")
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert record.cause
    assert relieved(await world.cluster.shard(), "a")


async def test_a_target_lost_after_the_cutover_is_waited_for() -> None:
    """Only the target can hand back: there is no take-over by another replica yet (note 0001)."""
    world = World()
    await world.begin()
    await reach(world, State.SOAKING)
    world.cluster.up.discard("b")
    await world.driver.order(world.id, "rollback", "target is lost")
    for _ in range(200):
        assert await world.step()
    world.cluster.up.add("b")
    assert (await world.run()).state is State.ROLLED_BACK
    assert relieved(await world.cluster.shard(), "a")


async def test_soak_stands_still_while_the_source_is_out_of_sync() -> None:  # H4
    world = World()
    await world.begin()
    await reach(world, State.SOAKING)
    world.cluster.up.discard("a")
    for _ in range(40):
        await world.step()
    assert (await world.record()).soaked_s < 0.5
    world.cluster.up.add("a")
    record = await world.run()
    assert record.state is State.COMPLETED
    assert record.soaked_s >= QUICK.soak_s


async def test_rollback_of_a_move_whose_source_fell_out_learns_it_again() -> None:  # H4
    world = World()
    await world.begin()
    await reach(world, State.SOAKING)
    world.cluster.up.discard("a")
    for _ in range(5):
        await world.step()
    shard = await world.cluster.shard()
    assert [m.instance for m in shard.in_sync] == ["b"]
    world.cluster.up.add("a")
    await world.driver.order(world.id, "rollback")
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert world.cluster.led == ["a", "b", "a"]
    assert relieved(await world.cluster.shard(), "a")


def calls(count: int, ms: float, **failed: int) -> SideWindow:
    """`count` reads and as many appends of `ms` each, as an instance tells them."""
    times = LatencyHistogram()
    times.add(ms / 1e3, count)
    return SideWindow(5.0, times.counts(), times.counts(), failed)


async def test_a_target_that_breaks_the_guard_rails_twice_while_it_soaks_is_rolled_back() -> None:
    world = World()
    await world.begin(replace(QUICK, soak_s=60.0))
    world.cluster.recent = {"a": calls(500, 10.0), "b": calls(500, 10.0)}
    await reach(world, State.SOAKING)
    world.cluster.recent["b"] = calls(500, 900.0)
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert record.cause is not None
    assert record.cause.startswith("soaking: the target's p99 of reads is 920.78 ms")
    assert relieved(await world.cluster.shard(), "a")


async def test_one_breach_or_too_few_calls_do_not_end_the_soak() -> None:
    for after in (calls(500, 10.0), calls(1, 900.0, overloaded=2)):
        world = World()
        await world.begin(replace(QUICK, soak_s=60.0))
        world.cluster.recent = {"a": calls(500, 10.0), "b": calls(500, 10.0)}
        await reach(world, State.SOAKING)
        world.cluster.recent["b"] = calls(500, 900.0)
        while not any("p99" in note for note in (await world.record()).notes):
            assert await world.step()
        world.cluster.recent["b"] = after
        assert (await world.run()).state is State.COMPLETED


async def test_a_target_that_refuses_is_rolled_back_from_the_ramp() -> None:
    world = World()
    await world.begin()
    world.cluster.recent = {"a": calls(500, 10.0), "b": calls(5, 1.0, overloaded=7)}
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert record.cause == (
        "the target failed 7 of 17 calls in 5.0 s (7 overloaded), the limit is a share of 0.01"
    )
    assert [p.state for p in record.phases].count(State.CUTOVER) == 0
    assert (record.bytes, record.bytes_copied) == (1_000_000, 1_000_000)
    assert relieved(await world.cluster.shard(), "a")


async def test_the_figures_before_during_and_after_are_measured() -> None:
    for strategy in ("shadow", "switch"):
        world = World()
        await world.begin(strategy=strategy)
        world.cluster.recent = {"a": calls(100, 4.0), "b": calls(50, 8.0, overloaded=1)}
        await reach(world, State.PREPARING)
        world.cluster.recent["a"] = calls(20, 2.0)
        record = await world.run()
        before, during, after = (record.windows[w] for w in ("before", "during", "after"))
        assert (before.calls, before.failed) == (200, 0)
        assert (during.calls, during.failed, during.refused) == (141, 1, 1)
        assert (after.calls, after.failed) == (101, 1)
        assert record.p99_ms == pytest.approx({"before": 4, "during": 8, "after": 8}, rel=0.05)


async def test_a_ramp_without_traffic_says_that_it_goes_by_time_once() -> None:
    world = World()
    await world.begin()
    record = await world.run()
    told = "the ramp goes by time while both sides have fewer than 20 calls in the last 5 s"
    assert record.notes == (told,)


async def test_a_ramp_that_must_see_traffic_waits_for_it() -> None:
    world = World()
    await world.begin(replace(QUICK, ramp_quiet="wait", ramping_timeout_s=20.0))
    await reach(world, State.RAMPING)
    for _ in range(50):
        await world.step()
    assert (await world.record()).state is State.RAMPING
    assert (await world.cluster.shard()).route == {}
    world.cluster.recent = {"a": calls(100, 4.0), "b": calls(100, 4.0)}
    assert (await world.run()).state is State.COMPLETED


async def test_a_source_declared_dead_is_given_up() -> None:
    world = World()
    await world.begin()
    await reach(world, State.SOAKING)
    world.cluster.up.discard("a")
    record = await world.run()
    assert record.state is State.COMPLETED
    assert any("declared dead" in note for note in record.notes)
    assert relieved(await world.cluster.shard(), "b")


async def test_an_unequal_chain_never_replaces_the_source() -> None:  # I8
    world = World()
    await world.begin()
    world.cluster.spoilt.add("b")
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert record.cause is not None
    assert "hash chains differ at offset" in record.cause
    assert "they differ first at offsets" in record.cause
    assert record.hash is not None
    assert not record.hash.equal
    assert world.cluster.led == ["a"]


async def test_an_unreadable_copy_is_refused() -> None:
    world = World()
    await world.begin()
    world.cluster.unreadable.add("b")
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert "offsets 10..20" in (record.cause or "")


async def test_a_source_that_never_hands_over_is_given_a_few_tries() -> None:
    world = World()
    await world.begin(replace(QUICK, setbacks_max=2))
    world.cluster.hands_over = False
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert record.setbacks == 2
    assert [p.state for p in record.phases].count(State.CUTOVER) == 3


async def test_pause_holds_and_resume_goes_on_without_running_out_of_time() -> None:
    world = World()
    await world.begin()
    await reach(world, State.RAMPING)
    await world.step()
    await world.driver.order(world.id, "pause")
    shares = set()
    for _ in range(2_000):  # 1,000 s, more than ramping_timeout_s
        await world.step()
        shares.add(tuple((await world.cluster.shard()).route.items()))
    assert (await world.record()).state is State.RAMPING
    assert len(shares) == 1
    await world.driver.order(world.id, "resume")
    assert (await world.run()).state is State.COMPLETED


async def test_complete_ends_the_soak_at_once() -> None:
    world = World()
    await world.begin(replace(QUICK, soak_s=3_600.0))
    await reach(world, State.SOAKING)
    await world.driver.order(world.id, "complete")
    record = await world.run()
    assert record.state is State.COMPLETED
    assert record.soaked_s < 10


async def test_orders_that_make_no_sense_say_what_does() -> None:
    world = World()
    await world.begin()
    with pytest.raises(InvalidArgumentError, match="only possible in soaking"):
        await world.driver.order(world.id, "complete")
    with pytest.raises(InvalidArgumentError, match="must be pause, resume"):
        await world.driver.order(world.id, "explode")
    await world.run()
    with pytest.raises(InvalidArgumentError, match="has ended"):
        await world.driver.order(world.id, "rollback")


async def test_one_migration_per_shard() -> None:
    world = World()
    await world.begin()
    with pytest.raises(AlreadyExistsError, match="is in migration m1"):
        await world.begin()


async def test_a_deleted_shard_ends_the_move() -> None:
    world = World()
    await world.begin()
    await reach(world, State.RAMPING)
    found = await world.cluster.store.get(shard_key(SHARD))
    assert found is not None
    other = replace(await world.cluster.shard(), migration="m9")
    await world.cluster.store.txn([], [Put(found.key, encode(other))])
    record = await world.run()
    assert record.state is State.ROLLED_BACK
    assert "m9" in (record.cause or "")
    assert (await world.cluster.shard()).migration == "m9"


async def test_the_driver_resumes_unfinished_migrations_from_the_records() -> None:
    world = World()
    record = await world.begin(MoveOptions(preparing_timeout_s=0.1))
    await world.step()
    await world.driver.start()
    assert world.driver.running() == (record.id,)
    await world.driver.close()
    assert world.driver.running() == ()
    assert (await world.record()).active
