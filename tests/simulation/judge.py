"""What a run's history is judged by once it has come to its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.simulation.world import World
from tests.support.checkers import (
    calm,
    i1_cover,
    i2_one_writer,
    i3_acked,
    i4_same_bytes,
    i5_prefix,
    i6_once,
    i7_migrations_end,
    i8_equal_chains,
    i9_compare_and_swap,
    i13_bytes_stay,
)
from tests.support.checkers.history import CopyState, Divergence, History, Row, Violation

SILENT_S = 1.7
"""So long a follower that hears nobody may serve: `follower_read_stale_s` by its clock, and what
was under way to it at first."""
DIVERGED = ("peer diverged, its copy is set aside", "learner failed")
"""Log lines of an instance that finds another committed part than its own."""


def judge(
    history: History,
    final: Sequence[Row],
    copies: Sequence[CopyState],
    excused: frozenset[str],
    *,
    names: frozenset[str],
    cells: int,
    errs: bool,
) -> list[Violation]:
    """`final`: the whole log, read at the end. `excused`: shards that may have lost what was acked.
    `names`: of the instances. `errs`: an operator made a mistake."""
    rows = history.whole(final)
    found = [
        *i1_cover.check(history.metadata),
        *i2_one_writer.check(history.acks, history.metadata, copies),
        *i3_acked.check(history.appends, rows, excused),
        *i3_acked.check_told(history.appends, rows, excused, history.metadata),
        *i5_prefix.check(history.reads, history.appends, rows, excused, history.trimmed_s),
        *i5_prefix.check_floors(history.reads, history.floors),
        *i5_prefix.check_latest(history.latest, history.appends, excused),
        *i5_prefix.check_silent(
            history.copy_reads, history.appends, history.silences, excused, SILENT_S
        ),
        *i6_once.check(history.appends, rows, excused),
        *i7_migrations_end.check(history.metadata),
        *i8_equal_chains.check(history.metadata),
        *i9_compare_and_swap.check(history.metadata, names, cells),
        *i13_bytes_stay.check(history.departures, history.metadata, history.trims),
        *calm.check(history.metadata),
    ]
    if not errs:  # an old disk's copy is set aside as one that differs, by right
        found += i8_equal_chains.check_diverged(history.divergences, excused | history.forged)
    if not excused:
        certain = history.conflicts - history.ahead
        found += i6_once.check_conflicts(history.appends, certain, rows)
        found += i4_same_bytes.check(copies, history.reads, rows)
    return found


def note_divergence(world: World, event: Mapping[str, Any], text: str) -> None:
    """Remember a log line that tells of one."""
    if event.get("event") in DIVERGED:
        divergence = Divergence(world.now_s, event["shard"], f"{event['event']}: {text}")
        world.history.divergences.append(divergence)
