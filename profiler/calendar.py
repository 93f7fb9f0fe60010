"""Announced events: what people know of the future and history does not show."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EVENTS_MAX = 4_096
FACTOR_MIN, FACTOR_MAX = 0.01, 100.0
LEARN_RATE = 0.3


@dataclass(frozen=True, slots=True)
class Event:
    """Between `start_s` and `end_s` (Unix seconds, end excluded) the load is `factor` times usual.

    `kind` groups events of one sort ("sale", "holiday"): the observed factor of one event is
    the factor of the next that states none. `shards` are prefixes of shard names; empty: all.
    """

    name: str
    start_s: float
    end_s: float
    factor: float | None = None
    kind: str = ""
    shards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(
                f"end_s of event {self.name!r} is {self.end_s}, the limit is > start_s"
            )
        if self.factor is not None and not FACTOR_MIN <= self.factor <= FACTOR_MAX:
            raise ValueError(
                f"factor of event {self.name!r} is {self.factor}, "
                f"the limit is {FACTOR_MIN} to {FACTOR_MAX}"
            )

    def touches(self, shard: str) -> bool:
        return not self.shards or shard.startswith(self.shards)


class Calendar:
    """Events by name, and the observed factors of their kinds. At most EVENTS_MAX events."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: dict[str, Event] = {}
        self._kinds: dict[str, float] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Announce an event; one of the same name is replaced."""
        if event.name not in self._events and len(self._events) >= EVENTS_MAX:
            raise ValueError(f"events is {len(self._events) + 1}, the limit is {EVENTS_MAX}")
        self._events[event.name] = event

    def remove(self, name: str) -> bool:
        """Remove an event; False when there is none of that name."""
        return self._events.pop(name, None) is not None

    def events(self) -> list[Event]:
        """All events, earliest first."""
        return sorted(self._events.values(), key=lambda event: (event.start_s, event.name))

    def forget_before(self, time_s: float) -> int:
        """Drop events that ended before `time_s`; returns how many. Learned kinds stay."""
        old = [name for name, event in self._events.items() if event.end_s <= time_s]
        for name in old:
            del self._events[name]
        return len(old)

    def factor(self, shard: str, start_s: float, end_s: float) -> float:
        """How many times the usual load the shard will carry in [start_s, end_s); 1 without events.

        Factors of simultaneous events multiply, within FACTOR_MIN and FACTOR_MAX; one that covers a
        part of the time counts by that part.
        """
        found = 1.0
        for event in self._events.values():
            inside = min(end_s, event.end_s) - max(start_s, event.start_s)
            if inside > 0 and event.touches(shard):
                found *= 1.0 + (self.expected(event) - 1.0) * inside / (end_s - start_s)
        return min(max(found, FACTOR_MIN), FACTOR_MAX)

    def active(self, start_s: float, end_s: float) -> bool:
        """Whether an event is announced for a part of [start_s, end_s)."""
        return any(e.start_s < end_s and e.end_s > start_s for e in self._events.values())

    def touching(self, shard: str, start_s: float, end_s: float) -> tuple[str, ...]:
        """Names of the events of the shard in a part of [start_s, end_s), in order."""
        return tuple(
            sorted(
                name
                for name, e in self._events.items()
                if e.start_s < end_s and e.end_s > start_s and e.touches(shard)
            )
        )

    def expected(self, event: Event) -> float:
        """The stated factor, else the observed one of the last events of its kind, else 1."""
        if event.factor is None:
            return self._kinds.get(event.kind or event.name, 1.0)
        return event.factor

    def kinds(self) -> dict[str, float]:
        """The observed factors of kinds, to be kept over a restart."""
        return {kind: float(factor) for kind, factor in self._kinds.items()}

    def restore(self, kinds: Mapping[str, float]) -> None:
        """Restore kept factors; newer ones stay."""
        self._kinds = {**kinds, **self._kinds}

    def learn(self, shard: str, start_s: float, end_s: float, usual: float, came: float) -> None:
        """Learn the load that came instead of `usual` during events: the kinds' factors follow
        it."""
        if usual <= 0:
            return
        for event in self._events.values():
            if event.start_s <= start_s and end_s <= event.end_s and event.touches(shard):
                kind = event.kind or event.name
                seen = min(max(came / usual, FACTOR_MIN), FACTOR_MAX)
                held = self._kinds.get(kind, seen if event.factor is None else event.factor)
                self._kinds[kind] = held + LEARN_RATE * (seen - held)

    def unknown(self, shard: str, start_s: float, end_s: float) -> bool:
        """Whether an event of a kind without an observed factor touches the shard then."""
        return any(
            e.factor is None
            and (e.kind or e.name) not in self._kinds
            and e.start_s < end_s
            and e.end_s > start_s
            and e.touches(shard)
            for e in self._events.values()
        )
