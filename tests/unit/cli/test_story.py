"""`logstore migrations ID --story`: what a person reads afterwards."""

from dataclasses import replace

from coordinator.cli.story import WHAT, copied, story_lines
from coordinator.migration.records import (
    ForecastNote,
    HashResult,
    MeasuredWindow,
    MigrationRecord,
    MoveOptions,
    Phase,
    State,
)
from coordinator.migration.service import told
from logstore.meta.records import Member

BEGUN_US = 1_700_000_000_000_000
DONE = MigrationRecord(
    id="m7",
    log="orders",
    shard="orders/0",
    source=Member("i1", 1, 1),
    target_instance="i2",
    created_us=BEGUN_US,
    state=State.COMPLETED,
    trigger="forecast",
    reason="i1 reaches 0.80 of its capacity in 240 s",
    risk=0.25,
    forecast=ForecastNote(120.0, 90.0, 150.0, 300.0),
    options=MoveOptions(feed="kafka"),
    phases=(
        Phase(State.PLANNED, BEGUN_US),
        Phase(State.SNAPSHOT, BEGUN_US + 500_000),
        Phase(State.COMPLETED, BEGUN_US + 2_000_000),
    ),
    notes=("the feed went on directly",),
    bytes=2_500_000,
    blackout_ms=7.25,
    hash=HashResult(42, "ab" * 16, "ab" * 16, True),
    bytes_copied=1_500_000,
    windows={
        "before": MeasuredWindow(5.0, 310, 0, 0, 6.0, 2.0, 6.5),
        "after": MeasuredWindow(4.5, 40, 40, 33),
    },
)


def test_a_completed_move() -> None:
    lines = list(story_lines(told(DONE, None, BEGUN_US + 9_000_000, 10.0)))
    assert lines == [
        "m7: orders/0 from i1 to i2 by shadow, feed kafka, trigger forecast",
        "because: i1 reaches 0.80 of its capacity in 240 s",
        "forecast: 120.0 ops/s in 300 s, between 90.0 and 150.0; risk 0.25",
        "2023-11-14 22:13:20.000Z  +   0.000 s  planned         0.500 s  asked for",
        "2023-11-14 22:13:20.500Z  +   0.500 s  snapshot        1.500 s  "
        "what is committed now is copied",
        "2023-11-14 22:13:22.000Z  +   2.000 s  completed                the source's copy is gone",
        "note: the feed went on directly",
        "copied: 1.500 of 2.500 MB",
        "hash chains: equal at offset 42: source abababababababab, target abababababababab "
        "(recomputed)",
        "blackout at the source: 7.2 ms",
        "before: 310 calls in 5.0 s, 0 failed (0 refused); p99 reads 2.0 ms, appends 6.5 ms",
        "after: 40 calls in 4.5 s, 40 failed (33 refused)",
    ]


def test_a_switch_copies_nothing_and_a_whole_copy_says_so_once() -> None:
    assert copied(told(replace(DONE, strategy="switch"), None, BEGUN_US, 10.0)).startswith(
        "nothing"
    )
    whole = replace(DONE, bytes_copied=2_500_000, copy_mb_per_s=12.5)
    assert copied(told(whole, None, BEGUN_US, 10.0)) == "2.500 MB at 12.5 MB/s"


def test_a_paused_move_tells_what_it_waits_for() -> None:
    record = replace(
        DONE, state=State.SNAPSHOT, paused=True, phases=DONE.phases[:2], hash=None, bytes=0
    )
    lines = list(story_lines(told(record, None, BEGUN_US + 9_000_000, 10.0)))
    assert lines[-1].startswith("now: paused; waits for ")


def test_every_state_has_words() -> None:
    assert WHAT.keys() == {state.value for state in State}
