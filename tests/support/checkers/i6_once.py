"""I6: a retried append is stored once. A conditional append succeeds at most once per version."""

from collections import Counter
from collections.abc import Collection, Sequence

from tests.support.checkers.history import AppendCall, Outcome, Row, Violation
from tests.support.checkers.i5_prefix import by_key


def check_conflicts(
    appends: Sequence[AppendCall], conflicts: Collection[bytes], final: Sequence[Row]
) -> list[Violation]:
    """A conflict is told on what stays (P10): the key has more records than were expected, each of
    them of an append that was called before the conflict was told."""
    called_s = {call.value: call.called_s for call in appends}
    order = by_key(final)
    found = []
    for call in appends:
        if call.value not in conflicts or call.expected_version is None:
            continue
        told_s = call.returned_s or 0.0
        rows = order.get(call.key, [])
        count = sum(called_s.get(row.value, 0.0) <= told_s for row in rows)
        if count <= call.expected_version:
            found.append(Violation("I6", f"{call.value!r} expected version {call.expected_version} "
                                   f"of {call.key!r}: a conflict, with {count} records",
                                   told_s))  # fmt: skip
    return found


def check(
    appends: Sequence[AppendCall], final: Sequence[Row], excused: frozenset[str] = frozenset()
) -> list[Violation]:
    found = []
    for value, count in Counter(row.value for row in final).items():
        if count > 1:
            found.append(Violation("I6", f"{value!r} is stored {count} times"))
    stored = {row.value for row in final}
    known = {call.value for call in appends}
    for call in appends:
        if call.outcome is Outcome.REFUSED and call.value in stored:
            found.append(Violation("I6", f"{call.value!r} was refused and is stored"))
    found += [Violation("I6", f"{value!r} was never appended") for value in stored - known]
    versions: dict[tuple[bytes, int], AppendCall] = {}
    order = by_key(final)
    for call in appends:
        if call.expected_version is None or call.outcome is not Outcome.ACKED:
            continue
        first = versions.setdefault((call.key, call.expected_version), call)
        if first is not call and excused.isdisjoint((first.shard, call.shard)):
            found.append(Violation("I6", f"{first.value!r} and {call.value!r} were both acked on "
                                   f"version {call.expected_version} of {call.key!r}"))  # fmt: skip
        place = [row.value for row in order.get(call.key, [])]
        if call.value in place and place.index(call.value) != call.expected_version:
            found.append(Violation("I6", f"{call.value!r} expected version {call.expected_version},"
                                   f" it is number {place.index(call.value)}"))  # fmt: skip
    return found
