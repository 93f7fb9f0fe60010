"""Answers about what people announced: events of the calendar, profiles of client groups."""

from coordinator.answers.base import Answer
from coordinator.unreadable import Odd
from logstore.meta.records import ProfileRecord
from profiler.calendar import Event


class AddedEvent(Answer, frozen=True, kw_only=True):
    """An event that was announced; `replaced`: the one of its name before.

    `overlaps`: others that touch a shard of it at some time, by name. `unmatched`: its prefixes
    that no shard begins with.
    """

    added: Event
    replaced: Event | None
    overlaps: list[str]
    unmatched: list[str]


class Removed(Answer, frozen=True, kw_only=True):
    """What was taken back, by name."""

    removed: str


class Events(Answer, frozen=True, kw_only=True):
    """Events, earliest first; in `odd` the stored entries that are none."""

    events: list[Event]
    odd: tuple[Odd, ...] = ()


class SetProfile(Answer, frozen=True, kw_only=True):
    """The profile of the group `set` has `steps` steps; `unmatched`: logs that are not there."""

    set: str
    steps: int
    unmatched: list[str]


class Profiles(Answer, frozen=True, kw_only=True):
    """Profiles of client groups; in `odd` the stored entries that are none."""

    profiles: list[ProfileRecord]
    odd: tuple[Odd, ...] = ()
