"""A move of one shard from S to T by shadowing, with one replica: the hardest case of ways back.

The coordinator keeps nothing: each step is one transaction on (migration, shard). Kills, a death
for good, and a person who asks for a rollback, at any moment.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

S, T = 0, 1
NAMES = "ST"
DEAD, DOWN, UP = range(3)
NOTHING, PART, WHOLE = range(3)
"""What a copy holds of what was acked."""
ENDS = ("completed", "rolled-back", "aborted")
COPYING = ("snapshot", "catching-up", "verifying", "shadowing")


@dataclass(frozen=True, slots=True)
class Rules:
    set_back: bool = True
    """Migration: a target that falls out before the cutover learns and is verified again."""
    adopt_failover: bool = True
    """Migration: a failover that makes T the primary is taken for the cutover."""
    hand_over_compares_set: bool = True
    """H2: the compare-and-swap that makes T primary compares that T is in sync."""
    rollback_learns_source: bool = True
    """H4: a source that fell out learns again before the shard is handed back."""
    complete_without_source: bool = True
    """Migration: a rollback ends as completed where the source is declared dead."""
    dropped_becomes_learner: bool = True
    """P3: a member that is dropped for silence stays as a learner and may come back."""
    tombstone_names_copy: bool = True
    """P9: an instance retires the copy that a tombstone names, and no later one."""


class Copy(NamedTuple):
    """`number`: its replica id, drawn for each copy."""

    data: int = NOTHING
    process: int = UP
    number: int = 1


class State(NamedTuple):
    phase: str = "planned"
    primary: int = S
    in_sync: frozenset[int] = frozenset({S})
    learners: frozenset[int] = frozenset()
    copies: tuple[Copy, Copy] = (Copy(WHOLE), Copy())
    tombstones: frozenset[tuple[int, int]] = frozenset()
    """Instance, replica id."""
    acks: int = 0
    kills: int = 0
    deaths: int = 0
    wishes: int = 0
    moves: int = 1
    """Moves that may still begin after this one."""


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Migration:
    """Bounds: acks after the start, kills; one death for good, one rollback asked for."""

    rules: Rules
    acks: int
    kills: int
    deaths: int = 1
    moves: int = 1

    def initial(self) -> State:
        return State(
            acks=self.acks, kills=self.kills, deaths=self.deaths, wishes=1, moves=self.moves
        )

    def steps(self, state: State) -> Steps:
        yield from self._world(state)
        if state.copies[state.primary].process == UP:
            yield from self._leader(state)
        else:
            yield from self._failover(state)
        if state.phase in ("planned", "preparing", *COPYING):
            yield from self._copy(state)
        elif state.phase in ("ramping", "cutover"):
            yield from self._cut_over(state)
        elif state.phase == "soaking":
            yield from self._soak(state)
        elif state.phase == "rolling-back":
            yield from self._roll_back(state)
        elif state.phase == "rolled-back" and state.moves and T not in state.in_sync:
            yield Step(
                "another move begins",
                state._replace(phase="planned", moves=state.moves - 1),
                chance=True,
            )

    # ---- instances -------------------------------------------------------------------------------

    def _world(self, state: State) -> Steps:
        for n, copy in enumerate(state.copies):
            if copy.process == UP and state.kills:
                killed = _with(state, n, copy._replace(process=DOWN))
                yield Step(
                    f"{NAMES[n]} is killed", killed._replace(kills=state.kills - 1), chance=True
                )
            if copy.process == DOWN:
                yield Step(f"{NAMES[n]} restarts", _with(state, n, copy._replace(process=UP)))
            if copy.process != DEAD and state.deaths and state.in_sync != {n}:
                dead = _with(state, n, Copy(NOTHING, DEAD, copy.number))
                yield Step(
                    f"{NAMES[n]} dies for good", dead._replace(deaths=state.deaths - 1), chance=True
                )
            if copy.process == UP:
                yield from self._retire(state, n)
        if state.wishes and state.phase not in (*ENDS, "rolling-back"):
            to = "aborted" if state.phase == "planned" else "rolling-back"
            yield Step(
                "a rollback is asked for",
                state._replace(phase=to, wishes=state.wishes - 1),
                chance=True,
            )

    def _retire(self, state: State, n: int) -> Steps:
        """P9: absence is no order; a tombstone names the copy."""
        for tombstone in state.tombstones:
            instance, number = tombstone
            if instance != n:
                continue
            named = number == state.copies[n].number or not self.rules.tombstone_names_copy
            copy = state.copies[n]._replace(data=NOTHING) if named else state.copies[n]
            done = _with(state, n, copy)._replace(tombstones=state.tombstones - {tombstone})
            yield Step(f"{NAMES[n]} reads the tombstone of copy {number}", done)

    def _leader(self, state: State) -> Steps:
        """P2, P3: appends; drops the other when it is silent or slow; adds it when it is asked."""
        leader = state.primary
        other = 1 - leader
        up = all(state.copies[m].process == UP for m in state.in_sync)
        if state.acks and up:
            after = state._replace(acks=state.acks - 1)
            if other not in state.in_sync and state.copies[other].data == WHOLE:
                after = _with(after, other, state.copies[other]._replace(data=PART))
            yield Step("an append is acked", after)
        if other in state.in_sync:
            yield Step(f"{NAMES[leader]} drops {NAMES[other]}", self._dropped(state, other))
        copy = state.copies[other]
        if other in state.learners and copy.process == UP:
            asked = ("shadowing",) if other == T else ("soaking", "rolling-back")
            if copy.data == WHOLE and state.phase in asked:
                yield Step(
                    f"{NAMES[leader]} adds {NAMES[other]}",
                    state._replace(
                        in_sync=state.in_sync | {other}, learners=state.learners - {other}
                    ),
                )
            if copy.data != WHOLE and state.phase not in ("planned", "preparing"):
                caught_up = _with(state, other, copy._replace(data=WHOLE))
                yield Step(f"{NAMES[other]} catches up", caught_up)

    def _failover(self, state: State) -> Steps:
        """P4: an in-sync member takes over and drops the silent primary."""
        heir = 1 - state.primary
        if heir in state.in_sync and state.copies[heir].process == UP:
            after = self._dropped(state, state.primary)
            yield Step(f"{NAMES[heir]} takes over", after._replace(primary=heir))

    def _dropped(self, state: State, n: int) -> State:
        comes_back = self.rules.dropped_becomes_learner and state.copies[n].process != DEAD
        learners = state.learners | {n} if comes_back else state.learners
        return state._replace(in_sync=state.in_sync - {n}, learners=learners)

    # ---- the coordinator -------------------------------------------------------------------------

    def _copy(self, state: State) -> Steps:
        """planned → preparing → snapshot → catching-up → verifying → shadowing → ramping."""
        phase, target = state.phase, state.copies[T]
        learns, in_sync, data = T in state.learners, T in state.in_sync, target.data
        if phase in ("shadowing",) and state.primary == T and self.rules.adopt_failover:
            yield _to(state, "soaking", "a failover made T the primary")
        if phase == "planned":
            yield _to(state, "preparing")
        elif phase == "preparing" and target.process == UP:
            fresh = _with(state, T, Copy(NOTHING, UP, target.number + 1))
            yield _to(fresh._replace(learners=state.learners | {T}), "snapshot", "T learns")
        elif phase == "preparing":
            yield _to(state, "rolling-back", "T is away")
        elif target.process == DEAD:
            yield _to(state, "rolling-back", "T is declared dead")
        elif phase == "snapshot" and learns and data >= PART:
            yield _to(state, "catching-up")
        elif phase == "catching-up" and learns and data == WHOLE:
            yield _to(state, "verifying")
        elif phase == "verifying":
            yield _to(state, "shadowing" if data == WHOLE else "catching-up")
        elif phase == "shadowing" and in_sync:
            yield _to(state, "ramping")
            yield _to(state, "cutover", "log-shipping")
        elif phase == "shadowing" and data != WHOLE:
            yield _to(state, "catching-up")
        if phase == "catching-up" and learns and data != WHOLE:
            again = _with(state, T, target._replace(data=NOTHING))
            yield _to(again, "snapshot", "a gap that nobody can fill")
        if phase in ("catching-up", "snapshot", "verifying") and not learns:
            yield _to(state, "rolling-back", "T is no learner")

    def _cut_over(self, state: State) -> Steps:
        """H1, H2: S drains and makes T the primary."""
        if state.primary == T:
            if self.rules.adopt_failover:
                yield _to(state, "soaking", "a failover made T the primary")
            return
        if T not in state.in_sync and self.rules.set_back:
            back = "catching-up" if T in state.learners else "rolling-back"
            yield _to(state, back, "T fell out")
        if state.phase == "ramping":
            if T in state.in_sync:
                yield _to(state, "cutover")
            return
        if state.copies[S].process != UP:
            return
        if T in state.in_sync or not self.rules.hand_over_compares_set:
            led = state._replace(primary=T, in_sync=state.in_sync | {T})
            yield _to(led, "soaking", "S drained, T is the primary")
        if T in state.in_sync:
            yield _to(state, "ramping", "S does not drain in time")

    def _soak(self, state: State) -> Steps:
        """H4: it ends while S is in sync, or S is declared dead."""
        if state.primary == S:
            if self.rules.adopt_failover:
                yield _to(state, "rolling-back", "a failover made S the primary")
            return
        alone = state._replace(in_sync=frozenset({T}), learners=frozenset())
        if S in state.in_sync and state.copies[T].process == UP:
            yield _to(_buried(alone, S), "completed", "T removes S")
        elif state.copies[S].process == DEAD:
            yield _to(_buried(alone, S), "completed", "S is declared dead")

    def _roll_back(self, state: State) -> Steps:
        """H4: another cutover, back to a source that holds all."""
        source = state.copies[S].process
        if state.primary == S:
            if source == UP:
                alone = state._replace(in_sync=frozenset({S}), learners=frozenset())
                yield _to(_buried(alone, T), "rolled-back", "S removes T")
            return
        if S in state.in_sync or not self.rules.rollback_learns_source:
            if state.copies[T].process == source == UP:
                back = state._replace(primary=S, in_sync=state.in_sync | {S})
                yield Step("T drains, S is the primary", back)
        elif source == DEAD and self.rules.complete_without_source:
            after = state._replace(learners=frozenset())
            yield _to(_buried(after, S), "completed", "S is declared dead")

    def violation(self, state: State) -> str | None:
        if state.primary not in state.in_sync:
            return "the primary is not in sync"
        for n in state.in_sync:
            copy = state.copies[n]
            if copy.data != WHOLE and copy.process != DEAD:
                return f"{NAMES[n]} is in sync and lacks what was acked"
            if copy.process == DEAD and state.in_sync == {n}:
                return f"the only member in sync, {NAMES[n]}, is dead for good"
        return None

    def finished(self, state: State) -> bool:
        return state.phase in ENDS


def _with(state: State, n: int, copy: Copy) -> State:
    pair = state.copies
    return state._replace(copies=(copy, pair[1]) if n == S else (pair[0], copy))


def _to(state: State, phase: str, why: str = "") -> Step[State]:
    return Step(f"{phase}{why and ': '}{why}", state._replace(phase=phase))


def _buried(state: State, n: int) -> State:
    """P9: who removes a copy writes its tombstone in the same transaction."""
    return state._replace(tombstones=state.tombstones | {(n, state.copies[n].number)})


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Migration(rules, 2, 2), off, violation, states, ends=True)


CASES = (
    _case("2 acks, 2 kills, 2 moves", states=10_319),
    _case("a lost target is waited for", "set_back", "stuck"),
    _case("a failover is not adopted", "adopt_failover", "stuck"),
    _case("T is not compared", "hand_over_compares_set", "lacks what was acked"),
    _case("handed back to who fell out", "rollback_learns_source", "lacks what was acked"),
    _case("waits for a dead source", "complete_without_source", "stuck"),
    _case("the dropped one is forgotten", "dropped_becomes_learner", "stuck"),
    _case("a late tombstone", "tombstone_names_copy", "lacks what was acked"),
)
LARGE = (Case("4 acks, 4 kills, 3 moves", lambda: Migration(Rules(), 4, 4, 1, 2), ends=True),)
