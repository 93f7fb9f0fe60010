"""A tail of one range across a split and a merge: parent P, successors A and B, then Z.

Key "k" is on A's side, "j" on B's. The reader asks primaries or followers, whose high watermarks
lag, and knows an old map.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

P, A, B, Z = range(4)
PARENTS: tuple[tuple[int, ...], ...] = ((), (P,), (P,), (A, B))
OPENED_AT = (0, 1, 1, 2)
"""The map that has the shard first."""

Record = tuple[str, int]
Log = tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    end_from_metadata: bool = True
    """S4: a parent ends for a reader at the metadata's `sealed_end`, not at a replica's mark."""
    parents_first: bool = True
    """S4: a successor is read after its parent."""
    every_parent: bool = True
    """S4: after all parents that the reader was reading."""


class State(NamedTuple):
    """`map`: 0 before the split, 1 after it, 2 after the merge; `known`: the reader's. `marks`:
    what the followers know. `places`: the reader's. `seen`: what it was shown, by key."""

    map: int = 0
    known: int = 0
    logs: tuple[Log, ...] = ((),) * 4
    marks: tuple[int, ...] = (0,) * 4
    places: tuple[int, ...] = (0,) * 4
    seen: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    appended: int = 0


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Tail:
    rules: Rules
    records: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        if state.appended < self.records:
            for key, side in (("k", A), ("j", B)):
                shard = (P, side, Z)[state.map]
                log = (*state.logs[shard], (key, state.appended))
                yield Step(
                    f"{key}{state.appended} goes to {'PABZ'[shard]}",
                    state._replace(logs=_put(state.logs, shard, log), appended=state.appended + 1),
                )
        for shard, mark in enumerate(state.marks):
            if mark < len(state.logs[shard]):
                yield Step(
                    f"a follower of {'PABZ'[shard]} hears {mark + 1}",
                    state._replace(marks=_put(state.marks, shard, mark + 1)),
                )
        if state.map < 2:
            yield Step(("the split", "the merge")[state.map], state._replace(map=state.map + 1))
        if state.known < state.map:
            yield Step("the reader learns the next map", state._replace(known=state.known + 1))
        for shard in range(4):
            if self._reads(state, shard):
                yield from self._take(state, shard)

    def _reads(self, state: State, shard: int) -> bool:
        """S4: whether the reader is past the shard's parents."""
        if state.known < OPENED_AT[shard]:
            return False
        ended = [self._ended(state, parent) for parent in PARENTS[shard]]
        if not self.rules.every_parent:
            ended = ended[:1]
        return not self.rules.parents_first or all(ended)

    def _ended(self, state: State, shard: int) -> bool:
        """Also its own parents: a place in a shard that was not begun is no end."""
        if not all(self._ended(state, parent) for parent in PARENTS[shard]):
            return False
        if self.rules.end_from_metadata:
            return state.places[shard] == len(state.logs[shard])
        return state.places[shard] >= state.marks[shard]

    def _take(self, state: State, shard: int) -> Steps:
        place, log = state.places[shard], state.logs[shard]
        for who, mark in (("the primary", len(log)), ("a follower", state.marks[shard])):
            if place < mark:
                key, number = log[place]
                k, j = state.seen
                seen = ((*k, number), j) if key == "k" else (k, (*j, number))
                yield Step(
                    f"{who} of {'PABZ'[shard]} shows {key}{number}",
                    state._replace(places=_put(state.places, shard, place + 1), seen=seen),
                )

    def violation(self, state: State) -> str | None:
        for key, seen in zip("kj", state.seen, strict=True):
            order = sorted(number for log in state.logs for k, number in log if k == key)
            if list(seen) != order[: len(seen)]:
                return f"the reader saw {key} as {seen}, its order is {order}"
        return None

    def finished(self, state: State) -> bool:
        return state.appended == self.records and sum(map(len, state.seen)) == self.records


def _put(values: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:at], value, *values[at + 1 :])


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Tail(rules, 3), off, violation, states, ends=off is None)


CASES = (
    _case("3 records", states=6_908),
    _case("the end is a follower's mark", "end_from_metadata", "the reader saw"),
    _case("successors before the parent", "parents_first", "the reader saw"),
    _case("after one parent of two", "every_parent", "the reader saw"),
)
LARGE = (Case("5 records", lambda: Tail(Rules(), 5), ends=True),)
