"""Linearizability of appends to one key, as a counter with compare-and-increment. Pure.

The object is the key's version: how many records it has. An append without an expectation adds 1;
one that expects `e` adds 1 if the version is `e`, else it is a conflict and changes nothing. The
answer's `version`, where there is one, is the version after it. Keys are independent objects, so
each is checked alone (Herlihy and Wing's locality). The search is Wing and Gong's, with Lowe's
memory of visited (set of done operations, state) pairs. Operations of unknown outcome may take
effect at any time after their call, or never; the last read of the log tells which of the two.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from tests.support.checkers.history import AppendCall, Outcome, Violation

STEPS_MAX = 2_000_000
"""Bound of the search for one key; beyond it is a violation of its own kind, never passed over."""


@dataclass(frozen=True, slots=True)
class Op:
    """`ok` None: unknown. `expected` None: unconditional. `end_s` is infinite if unknown."""

    start_s: float
    end_s: float
    expected: int | None
    ok: bool | None
    version: int | None
    name: str

    def step(self, state: int) -> int | None:
        """The state afterwards, or None if this answer is impossible there."""
        if self.ok is False:
            return None if state == self.expected else state
        if self.expected is not None and state != self.expected:
            return None
        if self.version is not None and self.version != state + 1:
            return None
        return state + 1


def check_keys(
    appends: Iterable[AppendCall], conflicts: Set[bytes], stored: Set[bytes] | None = None
) -> list[Violation]:
    """Every key that was appended to with an expectation at least once.

    `stored`: the values that the log has at the end; None if nobody read it.
    """
    keys: dict[bytes, list[AppendCall]] = defaultdict(list)
    for call in appends:
        keys[call.key].append(call)
    found = []
    for key, calls in keys.items():
        if all(call.expected_version is None for call in calls):
            continue
        ops = [op for c in calls if (op := _op(c, c.value in conflicts, stored)) is not None]
        why = explain(ops)
        if why is not None:
            name = "not-linearizable" if "steps" not in why else "search-too-long"
            found.append(Violation(name, f"key {key!r}: {why}"))
    return found


def _op(call: AppendCall, conflict: bool, stored: Set[bytes] | None) -> Op | None:
    name = call.value.decode(errors="replace")
    end_s = call.returned_s
    if call.outcome is Outcome.UNKNOWN or end_s is None:
        if stored is not None and call.value not in stored:
            return None
        ok = None if stored is None else True
        return Op(call.called_s, float("inf"), call.expected_version, ok, None, name)
    if call.outcome is Outcome.ACKED:
        return Op(call.called_s, end_s, call.expected_version, True, call.version, name)
    if conflict:
        return Op(call.called_s, end_s, call.expected_version, False, None, name)
    return None  # surely not stored, for a reason that says nothing of the version


def explain(ops: Sequence[Op]) -> str | None:
    """None if some order fits all answers and the times, else how far the best one came."""
    ordered = sorted(ops, key=lambda op: op.start_s)
    must = sum(1 << i for i, op in enumerate(ordered) if op.ok is not None)
    stack: list[tuple[int, int]] = [(0, 0)]
    visited = {(0, 0)}
    best, stuck = 0, 0
    for _ in range(STEPS_MAX):
        if not stack:
            return _story(ordered, best, stuck)
        done, state = stack.pop()
        if done & must == must:
            return None
        if (done & must).bit_count() >= (best & must).bit_count():
            best, stuck = done, state
        for i in _candidates(ordered, done):
            after = ordered[i].step(state)
            if after is not None and (node := (done | 1 << i, after)) not in visited:
                visited.add(node)
                stack.append(node)
    return f"undecided after {STEPS_MAX} steps"


def _candidates(ops: Sequence[Op], done: int) -> list[int]:
    """Which may come next: those called before the first return among those that are left."""
    first_end_s = float("inf")
    found = []
    i = (~done & (done + 1)).bit_length() - 1  # all below are done
    for at in range(i, len(ops)):
        if done >> at & 1:
            continue
        if ops[at].start_s > first_end_s:
            break
        found.append(at)
        first_end_s = min(first_end_s, ops[at].end_s)
    return [at for at in found if ops[at].start_s <= first_end_s][::-1]


def _story(ops: Sequence[Op], done: int, state: int) -> str:
    left = [op for i, op in enumerate(ops) if not done >> i & 1 and op.ok is not None][:3]
    said = ", ".join(
        f"{op.name} (expects {op.expected}, {'stored' if op.ok else 'conflict'}"
        f"{'' if op.version is None else f' as {op.version}'})"
        for op in left
    )
    return f"no order fits; at version {state} none of these can come next: {said}"
