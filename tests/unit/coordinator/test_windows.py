"""How many of the last seconds each decision of a move looks at, and what is kept of them."""

from dataclasses import replace

import pytest

from coordinator.migration.records import MigrationRecord, Phase, State
from coordinator.migration.windows import SideWindow, measured, seconds_asked, with_window
from logstore.meta.records import Member

RECORD = MigrationRecord("m1", "x", "x/0", Member("a", 1, 1), "b", 0)


def at(state: State, *phases: tuple[State, int]) -> MigrationRecord:
    return replace(RECORD, state=state, phases=tuple(Phase(s, us * 10**6) for s, us in phases))


RAMPING = at(State.RAMPING, (State.RAMPING, 10))
SOAKING = at(State.SOAKING, (State.CUTOVER, 19), (State.SOAKING, 20))


@pytest.mark.parametrize(
    ("record", "judged_s", "now_s", "asked"),
    [
        (RECORD, 0, 1, (5, 5)),
        (RAMPING, 0, 13, (5, 3)),
        (RAMPING, 0, 30, (5, 5)),
        (RAMPING, 28, 30, (5, 2)),
        (RAMPING, 31, 30, (5, 0)),
        (SOAKING, 0, 22, (3, 2)),
        (SOAKING, 0, 40, (0, 5)),
        (at(State.SNAPSHOT, (State.SNAPSHOT, 1)), 0, 9, (0, 0)),
    ],
)
def test_the_target_counts_since_the_state_began_and_after_what_was_judged(
    record: MigrationRecord, judged_s: int, now_s: int, asked: tuple[int, int]
) -> None:
    assert seconds_asked(record, judged_s * 10**6, now_s * 10**6) == asked


def test_a_window_holds_both_sides() -> None:
    source = SideWindow(5.0, reads={80: 10}, appends={88: 30})
    target = SideWindow(2.0, reads={104: 90}, failed={"overloaded": 4, "unavailable": 1})
    found = measured(source, target)
    assert (found.seconds, found.calls, found.failed, found.refused) == (5.0, 135, 5, 4)
    assert (found.read_p99_ms, found.append_p99_ms) == pytest.approx((8.555, 2.139))
    assert found.p99_ms == pytest.approx(8.555)


def test_a_window_without_an_answer_has_no_time() -> None:
    record = with_window(RECORD, "after", SideWindow(2.0, failed={"overloaded": 3}))
    assert record.windows["after"].failed == 3
    assert record.p99_ms == {}
    assert with_window(RECORD, "after", None, SideWindow()) == RECORD
