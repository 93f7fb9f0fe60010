"""The feed through a topic: two publishers (S, after a failover F), one learner, a broker that
loses what it holds.

Batches are offsets; "c" is the committed one, "x" one that S wrote and that was never committed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.models.search import Case, Step

Batch = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Rules:
    publish_committed_only: bool = True
    """F1: the feed holds only what is below the high watermark."""
    drop_duplicates: bool = True
    """F2: only the next offset is applied; what the log has is dropped."""
    fetch_gaps: bool = True
    """F2: what is missing comes from an in-sync replica."""
    ask_for_the_mark: bool = True
    """F2: caught up means the source's high watermark, not the topic's end."""


class State(NamedTuple):
    """`stray`: the offset at which S holds an uncommitted batch, or -1. `at_s`, `at_f`: next to be
    published. `base`: place of the topic's first message. `cursor`: the learner's place."""

    committed: int = 0
    stray: int = -1
    at_s: int = 0
    at_f: int = 0
    failed_over: bool = False
    topic: tuple[Batch, ...] = ()
    base: int = 0
    log: tuple[Batch, ...] = ()
    cursor: int = 0
    crashes: int = 1
    retentions: int = 1
    recreations: int = 1


Steps = Iterator[Step[State]]


@dataclass(frozen=True, slots=True)
class Feed:
    """Bounds: batches committed, messages in the topic at one time."""

    rules: Rules
    batches: int
    messages: int

    def initial(self) -> State:
        return State()

    def steps(self, state: State) -> Steps:
        yield from self._sources(state)
        yield from self._broker(state)
        yield from self._learner(state)

    def _sources(self, state: State) -> Steps:
        """F1; both may publish at once: a deposed S goes on with what it knows as committed."""
        end, topic = state.committed, state.topic
        if end < self.batches:
            yield Step(f"{end} is committed", state._replace(committed=end + 1))
            if not state.failed_over and state.stray < 0:
                yield Step(f"S writes {end}, uncommitted", state._replace(stray=end))
        if not state.failed_over:
            after = state._replace(failed_over=True, at_f=max(state.at_s - 1, 0))
            yield Step("F takes over, S goes on publishing", after, chance=True)
        if len(topic) >= self.messages:
            return
        if state.at_s < end:
            yield Step(
                f"S publishes {state.at_s}",
                state._replace(topic=(*topic, (state.at_s, "c")), at_s=state.at_s + 1),
            )
        if state.failed_over and state.at_f < end:
            yield Step(
                f"F publishes {state.at_f}",
                state._replace(topic=(*topic, (state.at_f, "c")), at_f=state.at_f + 1),
            )
        if not self.rules.publish_committed_only and state.stray == state.at_s == end:
            yield Step(
                f"S publishes {end}, uncommitted",
                state._replace(topic=(*topic, (end, "x")), stray=-1),
            )

    def _broker(self, state: State) -> Steps:
        if state.topic and state.retentions:
            after = state._replace(topic=state.topic[1:], base=state.base + 1, retentions=0)
            yield Step("the topic loses its first message", after, chance=True)
        if state.topic and state.recreations:
            after = state._replace(topic=(), base=0, recreations=0)
            yield Step("the topic is lost and made again", after, chance=True)

    def _learner(self, state: State) -> Steps:
        """F3: its truth is its own log; the cursor is only a start, and may be off either way."""
        place, own = state.cursor - state.base, len(state.log)
        if state.crashes:
            for cursor in {0, state.cursor + 1} - {state.cursor}:
                after = state._replace(cursor=cursor, crashes=0)
                yield Step(f"the learner restarts with its cursor at {cursor}", after, chance=True)
        if 0 <= place < len(state.topic):
            yield from self._take(state, state.topic[place])
        elif not 0 <= place <= len(state.topic):
            yield Step(
                "the learner begins with what the topic has (F3)", state._replace(cursor=state.base)
            )
        drained = place >= len(state.topic) or place < 0
        behind = own < state.committed and all(at < state.committed for at, _ in state.topic)
        if self.rules.ask_for_the_mark and drained and behind:
            fetched = state._replace(log=_fetched(state, state.committed))
            yield Step(
                "the topic is silent, the learner asks the source",
                fetched._replace(cursor=state.base + len(state.topic)),
            )

    def _take(self, state: State, batch: Batch) -> Steps:
        """F2: apply only the next offset."""
        offset, own, log = batch[0], len(state.log), (*state.log, batch)
        if offset < own and self.rules.drop_duplicates:
            log = state.log
        elif offset > own and self.rules.fetch_gaps:
            upto = min(offset, state.committed)
            yield Step(
                f"the learner fetches {own} to {upto} from a replica",
                state._replace(log=_fetched(state, upto)),
            )
            return
        yield Step(f"the learner applies {batch}", state._replace(log=log, cursor=state.cursor + 1))

    def violation(self, state: State) -> str | None:
        for place, (offset, kind) in enumerate(state.log):
            if offset != place:
                return f"the learner holds offset {offset} at {place}"
            if kind == "x" and place < state.committed:
                return f"the learner holds an uncommitted batch at {place}"
        return None

    def finished(self, state: State) -> bool:
        return state.log == tuple((i, "c") for i in range(self.batches))


def _fetched(state: State, upto: int) -> tuple[Batch, ...]:
    return state.log + tuple((i, "c") for i in range(len(state.log), upto))


def _case(name: str, off: str | None = None, violation: str = "", states: int = 0) -> Case:
    rules = replace(Rules(), **{off: False}) if off else Rules()
    return Case(name, lambda: Feed(rules, 3, 4), off, violation, states, ends=True)


CASES = (
    _case("3 batches, 4 messages", states=39_400),
    _case("uncommitted batches are published", "publish_committed_only", "uncommitted batch"),
    _case("duplicates are applied", "drop_duplicates", "holds offset"),
    _case("gaps are applied", "fetch_gaps", "holds offset"),
    _case("waits for the topic", "ask_for_the_mark", "stuck"),
)
LARGE = (Case("5 batches, 6 messages", lambda: Feed(Rules(), 5, 6), ends=True),)
