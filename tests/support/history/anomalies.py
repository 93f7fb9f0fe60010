"""What may be wrong with a history, in the manner of Jepsen's kafka workload.

A violation's `invariant` is the anomaly's name. `check` runs everything that is pure; each check
stands alone. `porcupined` asks a program besides.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tests.support.checkers import i3_acked, i5_prefix, i6_once, porcupine
from tests.support.checkers.history import Outcome, Row, Violation
from tests.support.history.linear import check_keys
from tests.support.history.record import Story, row_of

Place = tuple[str, int]


def check(story: Story) -> list[Violation]:
    """Every anomaly; the history must hold the final read of the whole log."""
    checks: list[Callable[[Story], list[Violation]]] = [
        lost_writes,
        aborted_reads,
        duplicates,
        inconsistent_offsets,
        polls,
        unseen,
        reordered_sends,
        gaps,
        prefixes,
        once,
        lambda s: check_keys(s.appends, s.conflicts, {row.value for row in s.final}),
    ]
    return [violation for one in checks for violation in one(story)]


def porcupined(story: Story) -> list[Violation]:
    """What another checker than ours says of the conditional appends; it runs a program of its own.

    Reads by key take part only by what the log holds at the end: a follower's may be older (P8).
    """
    stored = {row.value for row in story.final}
    return porcupine.check(story.appends, story.conflicts, stored=stored)


def seen_rows(story: Story) -> Iterable[tuple[Row, str]]:
    """Everything that any reader was shown, with who it was."""
    for read in story.reads:
        for row in read.rows:
            yield row, read.client
    for consumer, polled in story.polls.items():
        for poll in polled:
            for seen in poll.rows:
                yield row_of(seen), consumer
    for row in story.final:
        yield row, "the final read"


def lost_writes(story: Story) -> list[Violation]:
    """An acked record, or one that a reader was shown, is not in the log at the end."""
    found = [
        Violation("lost-write", v.text, v.at_s) for v in i3_acked.check(story.appends, story.final)
    ]
    stored = {row.value for row in story.final}
    answer = set()
    for row, who in seen_rows(story):
        if row.value not in stored and row.value not in answer:
            answer.add(row.value)
            text = f"{who} read {row.value!r} at {row.shard}:{row.offset}, it is not stored"
            found.append(Violation("lost-write", text))
    return found


def aborted_reads(story: Story) -> list[Violation]:
    """A record is read though its append was refused, or never sent."""
    outcomes = {call.value: call.outcome for call in story.appends}
    found, answer = [], set()
    for row, who in seen_rows(story):
        if outcomes.get(row.value, Outcome.REFUSED) is Outcome.REFUSED and row.value not in answer:
            answer.add(row.value)
            why = "was refused" if row.value in outcomes else "was never appended"
            text = f"{who} read {row.value!r} at {row.shard}:{row.offset}, which {why}"
            found.append(Violation("aborted-read", text))
    return found


def duplicates(story: Story) -> list[Violation]:
    """One append stands at two places."""
    first: dict[bytes, Place] = {}
    found = []
    for value, place, who in _places(story):
        known = first.setdefault(value, place)
        if known != place:
            text = f"{value!r} is at {_at(known)} and, by {who}, at {_at(place)}"
            found.append(Violation("duplicate", text))
    return found


def inconsistent_offsets(story: Story) -> list[Violation]:
    """One place holds two records, by acks, readers or the final read (I4)."""
    first: dict[Place, tuple[bytes, str]] = {}
    found = []
    for value, place, who in _places(story):
        known, other = first.setdefault(place, (value, who))
        if known != value:
            text = f"{_at(place)} is {known!r} by {other} and {value!r} by {who}"
            found.append(Violation("inconsistent-offset", text))
    return found


def polls(story: Story) -> list[Violation]:
    """A consumer goes back, or leaves out offsets, within a poll or between two of them."""
    found = []
    for consumer, polled in story.polls.items():
        next_: dict[str, int] = defaultdict(int)
        for poll in polled:
            for shard, offset, _, _ in poll.rows:
                expected = next_[shard]
                if offset != expected:
                    name = "skip" if offset > expected else "nonmonotonic-poll"
                    text = f"{consumer} was given {shard}:{offset} where {expected} follows"
                    found.append(Violation(name, text, poll.at_s))
                next_[shard] = offset + 1
    return found


def unseen(story: Story) -> list[Violation]:
    """A consumer that was given the time to catch up never saw an acked record."""
    found = []
    for consumer in sorted(story.caught_up):
        seen = {row[3] for poll in story.polls.get(consumer, []) for row in poll.rows}
        for call in story.appends:
            if call.outcome is Outcome.ACKED and call.value.decode() not in seen:
                text = f"{consumer} never saw {call.value!r}, acked at {call.shard}:{call.offset}"
                found.append(Violation("unseen", text, call.returned_s or 0.0))
    return found


def reordered_sends(story: Story) -> list[Violation]:
    """In a shard, an append that was acked before another was called has the lower offset."""
    shards = defaultdict(list)
    for call in story.appends:
        if call.outcome is Outcome.ACKED and call.shard:
            shards[call.shard].append(call)
    found = []
    for shard, calls in shards.items():
        calls.sort(key=lambda call: call.offset)
        earliest, who = float("inf"), None  # the first return among the offsets above
        for call in reversed(calls):
            if call.called_s > earliest and who is not None:
                text = f"{shard}: {call.value!r} at {call.offset} was called after {who.value!r}"
                found.append(Violation("reordered-send", f"{text} at {who.offset} was acked",
                                       call.called_s))  # fmt: skip
            if (returned_s := call.returned_s or 0.0) < earliest:
                earliest, who = returned_s, call
    return found


def gaps(story: Story) -> list[Violation]:
    """The final read has each offset of a shard once, from 0, in order."""
    next_: dict[str, int] = defaultdict(int)
    found = []
    for row in story.final:
        if row.offset != next_[row.shard]:
            text = f"the final read has {row.shard}:{row.offset} where {next_[row.shard]} follows"
            found.append(Violation("gap", text))
        next_[row.shard] = row.offset + 1
    return found


def prefixes(story: Story) -> list[Violation]:
    """Reads by key, and what their client was acked before them (I5, P8)."""
    return [
        Violation("not-a-prefix", v.text, v.at_s)
        for v in i5_prefix.check(story.reads, story.appends, story.final)
    ]


def once(story: Story) -> list[Violation]:
    """I6, with the places of conditional appends in their key's order."""
    return [
        Violation("not-once", v.text, v.at_s) for v in i6_once.check(story.appends, story.final)
    ]


def summary(violations: Sequence[Violation]) -> dict[str, int]:
    """How many of each kind."""
    counts: dict[str, int] = defaultdict(int)
    for violation in violations:
        counts[violation.invariant] += 1
    return dict(counts)


def _places(story: Story) -> Iterable[tuple[bytes, Place, str]]:
    for call in story.appends:
        if call.outcome is Outcome.ACKED and call.shard:
            yield call.value, (call.shard, call.offset), "its ack"
    for row, who in seen_rows(story):
        yield row.value, (row.shard, row.offset), who


def _at(place: Place) -> str:
    return f"{place[0]}:{place[1]}"
