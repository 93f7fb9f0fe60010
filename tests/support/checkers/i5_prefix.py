"""I5: per key, every reader sees a gap-free, duplicate-free prefix of one order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType

from tests.support.checkers.history import (
    AppendCall,
    CopyRead,
    Floor,
    LatestRead,
    Outcome,
    ReadCall,
    Row,
    Silence,
    Violation,
)

NOTHING: Mapping[bytes, float] = MappingProxyType({})
"""Nothing was trimmed."""


def by_key(rows: Iterable[Row]) -> dict[bytes, list[Row]]:
    """Each key's records in their order."""
    found: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    return dict(found)


def check_read(
    call: ReadCall, order: dict[bytes, list[Row]], trimmed_s: Mapping[bytes, float] = NOTHING
) -> list[Violation]:
    """What one call saw of each key is the first part of the key's order, less what was trimmed.

    A tail may begin anywhere, so there it is a part without a gap.
    """
    found = []
    for key, rows in by_key(call.rows).items():
        whole = order.get(key, [])
        first = 0
        if call.tail and rows[0] in whole:
            first = whole.index(rows[0])
        if not _follows(rows, whole[first:], call, trimmed_s):
            found.append(Violation("I5", f"{call.client} saw of key {key!r} {_places(rows)}, "
                                   f"the order is {_places(whole)}", call.returned_s))  # fmt: skip
    return found


def _follows(
    rows: Sequence[Row], order: Sequence[Row], call: ReadCall, trimmed_s: Mapping[bytes, float]
) -> bool:
    """Whether the rows are the order's first ones, but for those trimmed before the call ended."""
    left = iter(order)
    for row in rows:
        for there in left:
            if there == row:
                break
            if trimmed_s.get(there.value, inf) > call.returned_s:
                return False
        else:
            return False
    return True


def check_floors(reads: Sequence[ReadCall], floors: Sequence[Floor]) -> list[Violation]:
    """What every copy of a shard was trimmed of is shown by no read that begins later."""
    found = []
    for call in reads:
        if call.tail or not floors:
            continue
        low: dict[str, int] = {}
        for floor in floors:
            if floor.at_s <= call.called_s:
                low[floor.shard] = max(floor.base, low.get(floor.shard, 0))
        shown = [row for row in call.rows if row.offset < low.get(row.shard, 0)]
        if shown:
            found.append(Violation("I5", f"{call.client} was shown {_places(shown)}, which every "
                                   "copy was trimmed of before", call.called_s))  # fmt: skip
    return found


def check_sessions(
    reads: Sequence[ReadCall],
    appends: Sequence[AppendCall],
    trimmed_s: Mapping[bytes, float] = NOTHING,
) -> list[Violation]:
    """P8: a read shows at least what was acked to the same client before the read began, unless it
    was trimmed since."""
    acked: dict[tuple[str, bytes], list[AppendCall]] = defaultdict(list)
    for append in appends:
        if append.outcome is Outcome.ACKED:
            acked[append.client, append.key].append(append)
    found = []
    for call in reads:
        if call.tail or call.key is None:
            continue
        seen = {row.value for row in call.rows}
        for append in acked.get((call.client, call.key), ()):
            if append.value in seen or trimmed_s.get(append.value, inf) <= call.returned_s:
                continue
            if (append.returned_s or 0.0) <= call.called_s:
                text = f"{call.client} read key {call.key!r} without {append.value!r}, acked before"
                found.append(Violation("I5", f"{text}: {_places(call.rows)}", call.called_s))
    return found


def check_latest(
    latest: Sequence[LatestRead], appends: Sequence[AppendCall], excused: frozenset[str]
) -> list[Violation]:
    """P7: who claims to show the latest shows all that was acked to anybody before the call."""
    found = []
    acked = [c for c in appends if c.outcome is Outcome.ACKED and c.shard not in excused]
    for read in latest:
        for call in acked:
            before = (call.returned_s or 0.0) <= read.called_s
            if before and call.shard == read.shard and call.offset >= read.end:
                text = f"{read.instance} showed {read.shard} up to {read.end} as the latest"
                found.append(Violation("I5", f"{text}, {call.value!r} was acked at {call.offset}",
                                       read.called_s))  # fmt: skip
                break
    return found


def check_silent(
    reads: Sequence[CopyRead],
    appends: Sequence[AppendCall],
    silences: Sequence[Silence],
    excused: frozenset[str],
    bound_s: float,
) -> list[Violation]:
    """P8: an instance that nobody reaches but clients serves no read of a shard that lacks what was
    acked to anybody more than `bound_s` before the call."""
    found = []
    acked = [c for c in appends if c.outcome is Outcome.ACKED and c.shard not in excused]
    for read in reads:
        if not any(
            s.instance == read.instance and s.since_s + bound_s <= read.called_s < s.until_s
            for s in silences
        ):
            continue
        for call in acked:
            early = (call.returned_s or 0.0) < read.called_s - bound_s
            if early and call.shard == read.shard and call.offset >= read.end:
                text = f"{read.instance}, cut off, showed {read.shard} up to {read.end}"
                found.append(Violation("I5", f"{text}, {call.value!r} was acked at {call.offset} "
                                       f"{bound_s:.1f} s before", read.called_s))  # fmt: skip
                break
    return found


def check_sent_in_order(
    appends: Sequence[AppendCall], order: dict[bytes, list[Row]]
) -> list[Violation]:
    """A client process's acked appends to a key stand in the order of its calls, conditional ones
    aside: those are on their own."""
    places = {row.value: place for rows in order.values() for place, row in enumerate(rows)}
    last: dict[tuple[str, bytes], tuple[int, AppendCall]] = {}
    found = []
    for call in appends:
        place = places.get(call.value)
        if call.outcome is not Outcome.ACKED or call.expected_version is not None or place is None:
            continue
        before = last.get((call.client, call.key))
        if before is not None and place < before[0]:
            found.append(Violation("I5", f"{call.client} sent {before[1].value!r} before "
                                   f"{call.value!r}, of key {call.key!r}; they stand the other way "
                                   "round", call.called_s))  # fmt: skip
        if before is None or place > before[0]:
            last[call.client, call.key] = place, call
    return found


def check_real_time(
    appends: Sequence[AppendCall], order: dict[bytes, list[Row]]
) -> list[Violation]:
    """An append that was acked before another one of its key was called comes before it."""
    calls = {call.value: call for call in appends if call.outcome is Outcome.ACKED}
    found = []
    for key, rows in order.items():
        later = float("inf")  # the earliest return of what stands behind
        for row in reversed(rows):
            call = calls.get(row.value)
            if call is None or call.returned_s is None:
                continue
            if call.called_s > later:
                found.append(Violation("I5", f"{call.value!r} of key {key!r} stands before a record"
                                       " that was acked before it was sent",
                                       call.called_s))  # fmt: skip
            later = min(later, call.returned_s)
    return found


def check(
    reads: Sequence[ReadCall],
    appends: Sequence[AppendCall],
    final: Iterable[Row],
    excused: frozenset[str] = frozenset(),
    trimmed_s: Mapping[bytes, float] = NOTHING,
) -> list[Violation]:
    """`final`: every record at the end, in reading order, with those that were trimmed; `excused`
    as in I3."""
    order = by_key(final)
    kept = [r for r in reads if not any(row.shard in excused for row in r.rows)]
    found = [violation for call in kept for violation in check_read(call, order, trimmed_s)]
    if not excused:
        found += check_sessions(kept, appends, trimmed_s) + check_real_time(appends, order)
        found += check_sent_in_order(appends, order)
    return found


def _places(rows: Sequence[Row]) -> str:
    shown = " ".join(f"{row.shard}:{row.offset}" for row in rows[:40])
    return f"[{shown}{' ...' if len(rows) > 40 else ''}]"
