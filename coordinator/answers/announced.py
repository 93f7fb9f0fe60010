"""Answers about announcements: events of the calendar, profiles of client groups."""

from coordinator.answers.base import Answer
from logstore.meta.records import ProfileRecord
from logstore.meta.table import Odd
from profiler.calendar import Event


class AddedEvent(Answer, frozen=True, kw_only=True):
    """An event that was announced; `replaced`: the earlier one of its name.

    `overlaps`: others that touch one of its shards at some time, by name. `unmatched`: its prefixes
    that match no shard.
    """

    added: Event
    replaced: Event | None
    overlaps: list[str]
    unmatched: list[str]


class Removed(Answer, frozen=True, kw_only=True):
    """The removed event or profile, by name."""

    removed: str


class Events(Answer, frozen=True, kw_only=True):
    """Events, earliest first; in `odd` the stored entries that are not valid."""

    events: list[Event]
    odd: tuple[Odd, ...] = ()


class SetProfile(Answer, frozen=True, kw_only=True):
    """The group `set` has a profile of `steps` steps; `unmatched`: logs that do not exist."""

    set: str
    steps: int
    unmatched: list[str]


class Profiles(Answer, frozen=True, kw_only=True):
    """Profiles of client groups; in `odd` the stored entries that are not valid."""

    profiles: list[ProfileRecord]
    odd: tuple[Odd, ...] = ()
