"""The linearizability check against orders that exist, orders that do not, and brute force."""

import itertools
import random

from tests.support.checkers.history import AppendCall, Outcome
from tests.support.history.linear import Op, check_keys, explain

INF = float("inf")


def op(start: float, end: float, expected: int | None, ok: bool | None = True,
       version: int | None = None) -> Op:  # fmt: skip
    return Op(start, end, expected, ok, version, f"{start}")


def test_one_after_the_other() -> None:
    assert explain([op(0, 1, 0), op(2, 3, 1), op(4, 5, 2, version=3)]) is None
    assert explain([op(0, 1, 0), op(2, 3, 0)]) is not None


def test_a_conflict_needs_another_version() -> None:
    assert explain([op(0, 1, 0), op(2, 3, 0, ok=False)]) is None
    assert explain([op(0, 1, 0), op(2, 3, 1, ok=False)]) is not None


def test_overlapping_calls_may_take_either_order() -> None:
    assert explain([op(0, 5, 1), op(1, 4, 0)]) is None
    assert explain([op(0, 1, 1), op(2, 4, 0)]) is not None


def test_an_unknown_one_may_explain_the_others_at_any_later_time() -> None:
    unknown = op(0, INF, 0, ok=None)
    assert explain([unknown, op(5, 6, 1)]) is None
    assert explain([unknown, op(5, 6, 0)]) is None
    assert explain([op(1, 2, 1), op(5, INF, 0, ok=None)]) is not None


def test_the_last_read_decides_what_became_of_an_unknown_one() -> None:
    lost = AppendCall("c1", b"k", b"lost", 0.0, 0)
    late = AppendCall("c2", b"k", b"late", 5.0, 0, 6.0, Outcome.REFUSED)
    assert check_keys([lost, late], {b"late"}) == []
    assert check_keys([lost, late], {b"late"}, {b"lost"}) == []
    assert len(check_keys([lost, late], {b"late"}, set())) == 1


def test_the_told_version_counts() -> None:
    assert explain([op(0, 1, None, version=1), op(2, 3, None, version=2)]) is None
    assert explain([op(0, 1, None, version=2), op(2, 3, None, version=1)]) is not None


def test_agrees_with_trying_every_order() -> None:
    dice = random.Random(7)
    verdicts = set()
    for _ in range(400):
        ops = []
        for _ in range(5):
            start = dice.randrange(8)
            ok = dice.choice((True, True, False, None))
            end = INF if ok is None else start + 1 + dice.randrange(6)
            expected = dice.choice((None, 0, 1, 2)) if ok is not False else dice.randrange(3)
            ops.append(op(start, end, expected, ok))
        verdict = explain(ops) is None
        assert verdict == _brute(ops), ops
        verdicts.add(verdict)
    assert verdicts == {True, False}


def _brute(ops: list[Op]) -> bool:
    unknown = [o for o in ops if o.ok is None]
    known = [o for o in ops if o.ok is not None]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *some]):
                timely = all(
                    later.end_s >= earlier.start_s
                    for i, earlier in enumerate(order)
                    for later in order[i + 1 :]
                )
                state: int | None = 0
                for one in order:
                    state = one.step(state) if state is not None else None
                if timely and state is not None:
                    return True
    return False
