"""One producer's appends across a split (P into A and B) and a merge (A and B into Z).

A batch has records on one side of the split key or on both. Copies of a request stay under way for
ever, answers get lost, and a sealed shard forgets a producer. Each shard is one replica here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

P, A, B, Z = range(4)
NAMES = "PABZ"
OPENED_AT = (0, 1, 1, 2)
UNCERTAIN, CLEAR, STORED, UNKNOWN = "uncertain", "not stored", "stored", "unknown"


@dataclass(frozen=True, slots=True)
class Rules:
    ask_the_sealed: bool = True
    """S2: what is uncertain is decided by the sealed shard before it is cut by successor."""
    wait_for_ancestors: bool = True
    """S2: a producer's new appends wait until those to the ancestors are decided."""
    sealed_for_ever: bool = True
    """S5: a sealed shard's producer table is final."""
    forgotten_is_unknown: bool = True
    """S2: a sealed shard that forgot the producer says "outcome unknown", never "not stored"."""


class Part(NamedTuple):
    """What of a batch went to one shard, under a sequence of its own there."""

    batch: int
    sides: str
    shard: int
    sequence: int
    state: str = UNCERTAIN


class State(NamedTuple):
    """`map`: 0 before the split, 1 after it, 2 after the merge; `known`: the client's. `logs`:
    (batch, side). `last`: the producer's newest sequence in each shard's table, from 1."""

    map: int = 0
    known: int = 0
    logs: tuple[tuple[tuple[int, str], ...], ...] = ((),) * 4
    last: tuple[int, ...] = (0,) * 4
    forgot: tuple[bool, ...] = (False,) * 4
    next: tuple[int, ...] = (1,) * 4
    parts: tuple[Part, ...] = ()
    under_way: frozenset[tuple[int, str, int, int]] = frozenset()
    """Batch, sides, shard, sequence."""
    sent: int = 0


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Bounds: the batches by their sides, how many are open at one time, maps, forgettings."""

    rules: Rules
    batches: tuple[str, ...]
    window: int
    maps: int = 2
    forgets: int = 1

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        yield from self._send(state)
        for n, part in enumerate(state.parts):
            if part.state is UNCERTAIN:
                yield from self._handle(state, n)
        yield from self._late(state)
        yield from self._reroute(state)
        if state.map < self.maps:
            yield Step(("the split", "the merge")[state.map], state._replace(map=state.map + 1))
        if state.known < state.map:
            yield Step("the client learns the next map", state._replace(known=state.known + 1))
        for shard in range(4):
            sealed = self._sealed(state, shard)
            if sealed and state.last[shard] and sum(state.forgot) < self.forgets:
                yield Step(
                    f"{NAMES[shard]} forgets the producer",
                    state._replace(forgot=_put(state.forgot, shard, True)),
                    chance=True,
                )

    def _sealed(self, state: State, shard: int) -> bool:
        return state.map > OPENED_AT[shard]

    # ---- the client ------------------------------------------------------------------------------

    def _send(self, state: State) -> Steps:
        """A new batch goes to the shards of the map that the client knows."""
        open_ = {part.batch for part in state.parts if part.state in (UNCERTAIN, CLEAR)}
        if state.sent == len(self.batches) or len(open_) >= self.window:
            return
        older = [part for part in state.parts if OPENED_AT[part.shard] < state.known]
        undecided = any(part.state in (UNCERTAIN, CLEAR) for part in older)
        if undecided and self.rules.wait_for_ancestors:
            return
        after = _cut(state, state.sent, self.batches[state.sent])
        yield Step(f"the client sends batch {state.sent}", after._replace(sent=state.sent + 1))

    def _reroute(self, state: State) -> Steps:
        """S2: once all that went to a sealed shard is decided, what is not stored is split
        again."""
        for shard in (P, A, B):
            mine = [part for part in state.parts if part.shard == shard]
            if state.known <= OPENED_AT[shard]:
                continue
            uncertain = [part for part in mine if part.state is UNCERTAIN]
            if uncertain and self.rules.ask_the_sealed:
                continue
            again = [part for part in mine if part.state is CLEAR] + uncertain
            if not again:
                continue
            after = state._replace(parts=tuple(p for p in state.parts if p not in again))
            for part in sorted(again):
                after = _cut(after, part.batch, part.sides)
            yield Step(f"the client cuts what {NAMES[shard]} has not by successor", after)

    # ---- the shards ------------------------------------------------------------------------------

    def _handle(self, state: State, n: int) -> Steps:
        """An open shard takes the next sequence; a sealed one answers from its final table."""
        part = state.parts[n]
        shard, sequence = part.shard, part.sequence
        if self._sealed(state, shard) and self.rules.sealed_for_ever:
            answer = CLEAR
            if state.forgot[shard]:
                answer = UNKNOWN if self.rules.forgotten_is_unknown else CLEAR
            elif sequence <= state.last[shard]:
                answer = STORED
            yield Step(
                f"sealed {NAMES[shard]} answers {_told(part)}: {answer}",
                _answered(state, n, answer),
            )
        elif sequence <= state.last[shard]:
            yield Step(
                f"{NAMES[shard]} answers {_told(part)}: duplicate", _answered(state, n, STORED)
            )
        elif sequence == state.last[shard] + 1:
            stored = _stored(state, part[:4])
            yield Step(
                f"{NAMES[shard]} stores {_told(part)} and acks", _answered(stored, n, STORED)
            )

    def _late(self, state: State) -> Steps:
        """A copy of a request arrives that has no waiting caller, or its answer is lost."""
        for request in state.under_way:
            _, _, shard, sequence = request
            takes = not self._sealed(state, shard) or not self.rules.sealed_for_ever
            if takes and sequence == state.last[shard] + 1:
                yield Step(
                    f"{NAMES[shard]} stores {_told(Part(*request))}, the answer is lost",
                    _stored(state, request),
                )
            elif self._sealed(state, shard) and not self.rules.sealed_for_ever:
                for n, part in enumerate(state.parts):
                    if part[:4] == request and part.state is UNCERTAIN:
                        yield Step(
                            f"sealed {NAMES[shard]} answers {_told(part)}: not stored",
                            _answered(state, n, CLEAR),
                        )

    def violation(self, state: State) -> str | None:
        logs = state.logs
        for side, own in (("a", A), ("b", B)):
            order = [b for shard in (P, own, Z) for b, at in logs[shard] if at == side]
            if len(set(order)) != len(order):
                return f"stored twice on side {side}: {order}"
            if order != sorted(order):
                return f"out of order on side {side}: {order}"
            for part in state.parts:
                if part.state is STORED and side in part.sides and part.batch not in order:
                    return f"batch {part.batch} was acked and is lost on side {side}"
        return None

    def finished(self, state: State) -> bool:
        decided = all(part.state in (STORED, UNKNOWN) for part in state.parts)
        return state.sent == len(self.batches) and decided


def _cut(state: State, batch: int, sides: str) -> State:
    """The parts of a batch by the shards of the known map, under the next sequences there."""
    places = {0: ((P, "ab"),), 1: ((A, "a"), (B, "b")), 2: ((Z, "ab"),)}[state.known]
    for shard, range_ in places:
        own = "".join(side for side in sides if side in range_)
        if own:
            part = Part(batch, own, shard, state.next[shard])
            state = state._replace(
                parts=(*state.parts, part),
                next=_put(state.next, shard, part.sequence + 1),
                under_way=state.under_way | {part[:4]},
            )
    return state


def _stored(state: State, request: tuple[int, str, int, int]) -> State:
    batch, sides, shard, sequence = request
    log = (*state.logs[shard], *((batch, side) for side in sides))
    return state._replace(logs=_put(state.logs, shard, log), last=_put(state.last, shard, sequence))


def _answered(state: State, n: int, answer: str) -> State:
    return state._replace(parts=_put(state.parts, n, state.parts[n]._replace(state=answer)))


def _put(values: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:at], value, *values[at + 1 :])


def _told(part: Part) -> str:
    return f"batch {part.batch} {part.sides} ({NAMES[part.shard]}, {part.sequence})"


BATCHES = ("ab", "a", "ab")


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Dedupe(rules, BATCHES, 2), off, violation, states, ends=off is None)


CASES = (
    _case("3 batches, 2 open, split and merge", states=16_199),
    _case("uncertain batches are cut at once", "ask_the_sealed", "stored twice"),
    _case("new batches do not wait", "wait_for_ancestors", "out of order"),
    _case("a sealed shard stores a late copy", "sealed_for_ever", "stored twice"),
    _case("forgotten is taken for not stored", "forgotten_is_unknown", "stored twice"),
)
LARGE = (
    Case(
        "4 batches, 3 open, split and merge",
        lambda: Dedupe(Rules(), ("ab", "a", "b", "ab"), 3),
        ends=True,
    ),
)
