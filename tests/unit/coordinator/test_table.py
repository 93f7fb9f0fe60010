"""The transition table, options, strategies, the ramp's guard rails."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.migration import ramp
from coordinator.migration.dry_run import dry_run
from coordinator.migration.ramp import RampAction, RampState
from coordinator.migration.records import (
    MeasuredWindow,
    MigrationRecord,
    MoveOptions,
    State,
    decode_migration,
    encode_migration,
    parse_options,
)
from coordinator.migration.table import (
    PATHS,
    STRATEGIES,
    TABLE,
    advance,
    check_strategy,
    choose_strategy,
    may_go_to,
)
from coordinator.migration.windows import RampStatistics, SideWindow
from logstore.base.errors import IllegalTransitionError, InvalidArgumentError
from logstore.base.types import ShardStatus
from logstore.meta.records import Member, ShardRecord
from profiler.histogram import LatencyHistogram
from sharder.keys import KeyRange
from sharder.settings import limits_of

PROTOCOL = {
    "planned": "preparing aborted",
    "preparing": "snapshot rolling-back",
    "snapshot": "catching-up rolling-back",
    "catching-up": "verifying snapshot rolling-back",
    "verifying": "shadowing catching-up rolling-back",
    "shadowing": "ramping cutover catching-up soaking rolling-back",
    "ramping": "cutover catching-up soaking rolling-back",
    "cutover": "soaking ramping catching-up rolling-back",
    "soaking": "completed rolling-back",
    "rolling-back": "rolled-back completed",
    "completed": "",
    "rolled-back": "",
    "aborted": "",
}


def record_in(state: State) -> MigrationRecord:
    return MigrationRecord("m1", "orders", "orders/0", Member("a", 1, 1), "b", 0, state=state)


def test_the_table_is_the_protocols() -> None:
    assert {s.value: {t.value for t in row.to} for s, row in TABLE.items()} == {
        state: set(to.split()) for state, to in PROTOCOL.items()
    }


@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
def test_any_step_is_on_the_table_or_raises_with_the_story(state: State, to: State) -> None:
    record = record_in(state)
    if to.value in PROTOCOL[state.value].split():
        after = advance(record, to, 5)
        assert (after.state, after.phases[-1].at_us, after.since_us) == (to, 5, 5)
        return
    with pytest.raises(IllegalTransitionError, match=r"orders/0 from a to b"):
        advance(record, to, 5)


def test_every_field_of_the_options_is_bounded_and_named() -> None:
    limits = limits_of(MoveOptions)
    assert set(limits) == set(MoveOptions.__slots__)
    for name, limit in limits.items():
        assert (limit.interval is None) == bool(limit.choices), name
        if limit.interval is None:
            with pytest.raises(InvalidArgumentError, match=f"{name} is 'x', .* {limit.choices[0]}"):
                replace(MoveOptions(), **{name: "x"})  # type: ignore[arg-type]
            continue
        low, high = limit.interval.ge, limit.interval.le
        for value in (low - 1, high * 2 + 1):  # type: ignore[operator]
            with pytest.raises(InvalidArgumentError, match=f"{name} is .* must be within"):
                replace(MoveOptions(), **{name: value})  # type: ignore[arg-type]


def test_options_come_from_json_over_defaults() -> None:
    base = MoveOptions(soak_s=3.0)
    assert parse_options(b"", base) == base
    assert parse_options(b'{"ramp_step": 0.5}', base) == replace(base, ramp_step=0.5)
    with pytest.raises(InvalidArgumentError, match=r"options\.speed is not known"):
        parse_options(b'{"speed": 1}')
    with pytest.raises(InvalidArgumentError, match="options"):
        parse_options(b'{"soak_s": "long"}')
    with pytest.raises(InvalidArgumentError, match="soak_s is -1"):
        parse_options(b'{"soak_s": -1}')


def test_strategies_are_offered_by_name() -> None:
    assert check_strategy("") == "auto"
    for strategy in STRATEGIES:
        assert check_strategy(strategy) == strategy
        assert set(PATHS[strategy]) <= set(TABLE)
    with pytest.raises(InvalidArgumentError, match="'teleport'"):
        check_strategy("teleport")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_straight_way_of_each_strategy_is_legal(strategy: str) -> None:
    way = [*PATHS[strategy], State.COMPLETED]
    for state, to in itertools.pairwise(way):
        assert to in may_go_to(strategy, state)


A, B, C = Member("a", 1, 1), Member("b", 1, 2), Member("c", 1, 3)


def test_a_follower_is_switched_to_and_others_are_copied_to() -> None:
    shard = ShardRecord("orders/0", "orders", KeyRange(), ShardStatus.OPEN, 4, 1, A, (A, B), (C,))
    assert choose_strategy("", shard, "b") == "switch"
    assert choose_strategy("auto", shard, "d") == "shadow"
    assert choose_strategy("log-shipping", shard, "d") == "log-shipping"
    with pytest.raises(InvalidArgumentError, match="has followers on b"):
        choose_strategy("switch", shard, "d")
    with pytest.raises(InvalidArgumentError, match="on b: use strategy switch"):
        choose_strategy("shadow", shard, "b")
    with pytest.raises(InvalidArgumentError, match="still learning"):
        choose_strategy("", shard, "c")
    with pytest.raises(InvalidArgumentError, match="already on a"):
        choose_strategy("", shard, "a")


def test_a_record_survives_its_json() -> None:
    record = replace(advance(record_in(State.PLANNED), State.PREPARING, 7), paused=True)
    assert decode_migration(encode_migration(record)) == record


def test_dry_run_tells_bytes_and_seconds() -> None:
    steps = {s.state: s for s in dry_run(MoveOptions(throttle_bytes_per_s=1e6), 5_000_000, 20.0)}
    assert list(steps) == list(PROTOCOL)[:9]
    assert (steps["snapshot"].bytes, steps["snapshot"].seconds) == (5_000_000, 5.0)
    assert steps["ramping"].seconds == pytest.approx(10.0)


def test_p_rises_step_by_step_to_one() -> None:
    state, now_us, seen = RampState(), 0, []
    options = MoveOptions(ramp_step=0.25, ramp_interval_s=0.1)
    while (step := ramp.step(state, RampStatistics(), options, now_us)).move is not RampAction.DONE:
        assert step.move is RampAction.SET
        assert ramp.step(step.state, RampStatistics(), options, now_us).move is RampAction.WAIT
        state = step.state
        seen.append((now_us, state.p))
        now_us += 100_000
    assert seen == [(0, 0.25), (100_000, 0.5), (200_000, 0.75), (300_000, 1.0)]


def times(count: int, ms: float) -> dict[int, int]:
    """`count` calls of `ms` each, as an instance tells them."""
    found = LatencyHistogram()
    found.add(ms / 1e3, count)
    return found.counts()


def served(reads: int, ms: float = 1.0, **failed: int) -> SideWindow:
    return SideWindow(5.0, reads=times(reads, ms) if reads else {}, failed=failed)


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        (RampStatistics(lag_records=20_001), "lag is 20001 records"),
        (
            RampStatistics(target=served(98, unavailable=2)),
            "failed 2 of 100 calls in 5.0 s (2 unavailable), the limit is a share of 0.01",
        ),
        (RampStatistics(target=served(7, overloaded=3)), "failed 3 of 10 calls"),
        (RampStatistics(target=served(0, overloaded=3)), "(3 overloaded)"),
        (
            RampStatistics(source=served(200, 10.0), target=served(100, 40.0)),
            "the target's p99 of reads is 40.69 ms (100 calls), the limit is 30.52 ms",
        ),
        (RampStatistics(source=served(200, 10.0), target=served(3, 40.0)), "(3 calls)"),
        (
            RampStatistics(target=SideWindow(5.0, queue_bytes=2**25 + 1)),
            "33554433 bytes of appends waiting",
        ),
    ],
)
def test_a_breach_steps_back_and_the_second_rolls_back(figures: RampStatistics, why: str) -> None:
    options = MoveOptions()
    first = ramp.step(RampState(p=0.5), figures, options, 1_000_000)
    assert first.move is RampAction.BACK
    assert why in first.why
    assert first.state.p == pytest.approx(0.4)
    assert first.state.judged_us == first.state.due_us == 2_000_000
    assert ramp.step(first.state, figures, options, 1_000_000).move is RampAction.WAIT
    assert ramp.step(first.state, figures, options, 2_000_000).move is RampAction.ROLL_BACK


@pytest.mark.parametrize(
    "figures",
    [
        RampStatistics(lag_records=20_000),
        RampStatistics(source=served(200), target=served(99, unavailable=1)),
        RampStatistics(source=served(200), target=served(20, unavailable=1)),
        RampStatistics(source=served(200), target=served(0, overloaded=2)),
        RampStatistics(source=served(200, 1.0), target=served(100, 19.0)),
        RampStatistics(source=served(200, 10.0), target=served(100, 28.0)),
        RampStatistics(source=served(0), target=served(100, 900.0)),
    ],
)
def test_what_is_within_the_limits_or_says_too_little_is_no_breach(
    figures: RampStatistics,
) -> None:
    assert ramp.step(RampState(p=0.5), figures, MoveOptions(), 0).move is RampAction.SET


def test_a_source_without_reads_is_compared_as_it_was_before() -> None:
    figures = RampStatistics(source=served(0), target=served(100, 40.0))
    before = MeasuredWindow(read_p99_ms=10.0)
    assert ramp.step(RampState(p=1.0), figures, MoveOptions(), 0).move is RampAction.DONE
    found = ramp.step(RampState(p=1.0), figures, MoveOptions(), 0, before)
    assert (found.move, found.why.endswith("the limit is 30.00 ms")) == (RampAction.BACK, True)


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.0, 0.5))
def test_more_failures_never_lift_a_verdict(hits: int, more: int, share: float) -> None:
    of = hits + more
    if hits and ramp.exceeds(hits - 1, of, share, 100):
        assert ramp.exceeds(hits, of, share, 100)
    if of and ramp.exceeds(hits, of, share, 100):
        assert hits > share * of


QUIET_TIME = "the ramp goes by time while both sides have fewer than 20 calls in the last 5 s"
QUIET_WAIT = "the ramp waits while both sides have fewer than 20 calls in the last 5 s"
UNSEEN = "the ramp waits while the target has too few of the calls in the last 5 s"


@pytest.mark.parametrize(
    ("quiet", "p", "source", "target", "move", "note"),
    [
        ("time", 0.5, 19, 0, RampAction.SET, QUIET_TIME),
        ("time", 0.5, 1_000, 0, RampAction.SET, ""),
        ("wait", 0.0, 19, 0, RampAction.WAIT, QUIET_WAIT),
        ("wait", 0.0, 20, 0, RampAction.SET, ""),
        ("wait", 0.01, 1_500, 0, RampAction.SET, ""),
        ("wait", 0.5, 1_000, 0, RampAction.WAIT, UNSEEN),
        ("wait", 0.5, 1_000, 99, RampAction.WAIT, UNSEEN),
        ("wait", 0.5, 1_000, 100, RampAction.SET, ""),
        ("wait", 1.0, 30, 19, RampAction.WAIT, UNSEEN),
        ("wait", 1.0, 0, 20, RampAction.DONE, ""),
    ],
)
def test_a_ramp_with_too_little_traffic_waits_or_goes_by_time_and_says_which(
    quiet: str, p: float, source: int, target: int, move: RampAction, note: str
) -> None:
    figures = RampStatistics(source=served(source), target=served(target))
    found = ramp.step(RampState(p=p), figures, MoveOptions(ramp_quiet=quiet), 0)
    assert (found.move, found.note) == (move, note)
