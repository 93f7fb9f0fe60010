"""Porcupine's verdicts over small histories, and that ours and porcupine's agree on many."""

import random

import pytest

from tests.support.checkers import porcupine
from tests.support.checkers.history import AppendCall, Outcome, ReadCall, Row
from tests.support.history.linear import check_keys


def append(
    value: bytes,
    called_s: float,
    returned_s: float | None,
    expected: int | None,
    outcome: Outcome = Outcome.ACKED,
    version: int | None = None,
) -> AppendCall:
    return AppendCall("c", b"k", value, called_s, expected, returned_s, outcome, version=version)


def read(called_s: float, returned_s: float, records: int) -> ReadCall:
    rows = [Row("log/0", n, b"k", b"v", 0) for n in range(records)]
    return ReadCall("r", b"k", called_s, returned_s, rows)


def judged(*calls: AppendCall | ReadCall, conflicts: frozenset[bytes] = frozenset()) -> list[str]:
    appends = [call for call in calls if isinstance(call, AppendCall)]
    reads = [call for call in calls if isinstance(call, ReadCall)]
    return [v.invariant for v in porcupine.check(appends, conflicts, reads)]


def test_a_legal_history_passes() -> None:
    calls = (
        append(b"a", 0, 3, 0, version=1),
        append(b"b", 1, 2, 0, Outcome.REFUSED),
        append(b"c", 4, 5, 1, version=2),
        append(b"d", 4, 6, None),
        read(7, 8, 3),
    )
    assert judged(*calls, conflicts=frozenset({b"b"})) == []


def test_two_acks_on_one_version_are_refused() -> None:
    calls = append(b"a", 0, 3, 0, version=1), append(b"b", 1, 2, 0, version=1)
    assert judged(*calls) == ["not-linearizable"]


def test_a_conflict_on_the_version_that_the_key_had_is_refused() -> None:
    calls = append(b"a", 0, 1, 0), append(b"b", 2, 3, 1, Outcome.REFUSED)
    assert judged(*calls, conflicts=frozenset({b"b"})) == ["not-linearizable"]


@pytest.mark.parametrize("records", [0, 1])
def test_an_unknown_outcome_may_have_happened_or_not(records: int) -> None:
    assert judged(append(b"a", 0, 1, 0, Outcome.UNKNOWN), read(2, 3, records)) == []


def test_an_unknown_outcome_happens_once() -> None:
    calls = append(b"a", 0, None, 0, Outcome.UNKNOWN), read(2, 3, 1), read(4, 5, 0)
    assert judged(*calls) == ["not-linearizable"]


def test_an_unknown_outcome_may_happen_long_after_it_was_told() -> None:
    calls = append(b"a", 0, 1, 0, Outcome.UNKNOWN), read(2, 3, 0), read(4, 5, 1)
    assert judged(*calls) == []


def test_what_is_stored_at_the_end_has_happened() -> None:
    unknown = append(b"a", 0, 1, 0, Outcome.UNKNOWN)
    later = append(b"b", 2, 3, 0, version=1)
    assert porcupine.check([unknown, later], set(), stored={b"b"}) == []
    found = porcupine.check([unknown, later], set(), stored={b"a", b"b"})
    assert [v.invariant for v in found] == ["not-linearizable"]


def test_both_judges_agree() -> None:
    """Random histories of a few overlapping calls on 150 keys, sound and unsound ones."""
    dice = random.Random(15)
    verdicts = []
    appends: list[AppendCall] = []
    conflicts: set[bytes] = set()
    for key in range(150):
        for n in range(dice.randint(2, 6)):
            called_s, expected = dice.uniform(0, 4), dice.choice((None, 0, 1, 2))
            value = b"%d-%d" % (key, n)
            outcome = dice.choice((Outcome.ACKED, Outcome.ACKED, Outcome.UNKNOWN, Outcome.REFUSED))
            if outcome is Outcome.REFUSED and expected is not None:
                conflicts.add(value)
            returned_s = called_s + dice.uniform(0.1, 3)
            appends.append(
                AppendCall("c", b"%d" % key, value, called_s, expected, returned_s, outcome)
            )
    ours = {v.text.split(":")[0] for v in check_keys(appends, conflicts)}
    theirs = {v.text.split(":")[0] for v in porcupine.check(appends, conflicts)}
    verdicts = [len(ours), len({call.key for call in appends})]
    assert ours == theirs
    assert 30 < verdicts[0] < verdicts[1] - 30
