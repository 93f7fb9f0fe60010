"""Announcements of the future: events of the calendar and profiles of client groups.

The metadata holds them (`/calendar/NAME`, `/profiles/GROUP`); every coordinator watches them and
adds them to its forecasts, so they survive restarts and changes of leader.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
import structlog

from coordinator.answers.announced import AddedEvent, Events, Profiles, Removed, SetProfile
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.model_trainer import ModelTrainer
from logstore.base.background import Background
from logstore.base.errors import InvalidArgumentError
from logstore.base.names import checked_name
from logstore.meta.port import MetadataStore
from logstore.meta.records import ProfileRecord
from logstore.meta.table import Decided, Followed, Odd, Table, transact
from logstore.meta.tables import log_table, shard_table
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import AnnouncementsServicer
from profiler.calendar import EVENTS_MAX, Event
from profiler.forecast.groups import GROUPS_MAX, PROFILE_SLOTS_MAX, UsageProfile

CALENDAR = "/calendar/"
PROFILES = "/profiles/"
LIST_MAX = 1_024
"""Logs named in a profile."""
TIME_S_MIN, TIME_S_MAX = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, which every calendar can show."""
STEP_S_MAX = 366 * 86_400.0
STEPS_MAX = 10_000
"""Steps of one profile: it is one value of the metadata, which must be small."""
EVENT_TIME_MAX_S = 7_258_118_400.0
EVENT_DAYS_MAX = 366
EVENT_SHARDS_MAX = 1_000

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def check_profile(record: ProfileRecord) -> ProfileRecord:
    """Refuse a profile that cannot be stored or forecast with."""
    _check_name("group", record.group)
    if not 1 <= len(record.ops_per_s) <= STEPS_MAX:
        raise InvalidArgumentError(
            f"ops_per_s has {len(record.ops_per_s)} steps, the limit is 1 to {STEPS_MAX}"
        )
    if not 0 < record.step_s <= STEP_S_MAX:
        raise InvalidArgumentError(
            f"step_s is {record.step_s:g}, the limit is more than 0 and at most {STEP_S_MAX:g} s"
        )
    _check_time("start_s", record.start_s)
    _check_list("logs", record.logs)
    for value in record.ops_per_s:
        if not 0 <= value < float("inf"):
            raise InvalidArgumentError(f"ops_per_s is {value}, the limit is >= 0 and finite")
    return record


def check_event(event: Event) -> Event:
    """Refuse an event that no forecast can use: bounds beside those of the type itself.

    Times are the logs' own, so they are compared with no clock; a year like 9999 is a mistake.
    """
    _check_name("name", event.name)
    for field in ("start_s", "end_s"):
        value = getattr(event, field)
        if not 0 <= value <= EVENT_TIME_MAX_S:
            raise InvalidArgumentError(
                f"{field} of event {event.name!r} is {value:.15g}, the limit is 0 to "
                f"{EVENT_TIME_MAX_S:.0f} Unix seconds (the year 2200)"
            )
    if event.end_s - event.start_s > EVENT_DAYS_MAX * 86_400:
        raise InvalidArgumentError(
            f"event {event.name!r} lasts {(event.end_s - event.start_s) / 86_400:.0f} days, the "
            f"limit is {EVENT_DAYS_MAX}: what lasts longer is the usual load"
        )
    checked_name("kind", event.kind, may_be_empty=True)
    if len(event.shards) > EVENT_SHARDS_MAX:
        raise InvalidArgumentError(
            f"event {event.name!r} has {len(event.shards)} shards, the limit is {EVENT_SHARDS_MAX}"
        )
    return event


def overlap(one: Event, other: Event) -> bool:
    """Whether both touch a shard at some time."""
    if not (one.start_s < other.end_s and other.start_s < one.end_s):
        return False
    if not one.shards or not other.shards:
        return True
    return any(a.startswith(b) or b.startswith(a) for a in one.shards for b in other.shards)


def usage(record: ProfileRecord, slot_s: float) -> UsageProfile:
    """The profile in operations a slot; a step may be shorter or longer than a slot.

    InvalidArgumentError if it repeats after a fraction of slots, or is too long.
    """
    length_s = len(record.ops_per_s) * record.step_s
    first = int(record.start_s // slot_s)
    slots = -(-(record.start_s + length_s - first * slot_s) // slot_s)
    if record.repeats:
        whole = round(length_s / slot_s)
        if whole < 1 or abs(whole * slot_s - length_s) > 1e-6 or record.start_s % slot_s:
            raise InvalidArgumentError(
                f"a profile that repeats starts and ends with slots of {slot_s:g} s: start_s is "
                f"{record.start_s}, its length {length_s:g} s"
            )
        slots = whole
    if slots > PROFILE_SLOTS_MAX:
        raise InvalidArgumentError(
            f"the profile has {slots:.0f} slots, the limit is {PROFILE_SLOTS_MAX}"
        )
    edges = record.start_s + np.arange(len(record.ops_per_s) + 1) * record.step_s
    done = np.concatenate([[0.0], np.cumsum(np.array(record.ops_per_s) * record.step_s)])
    at = np.interp((first + np.arange(int(slots) + 1)) * slot_s, edges, done)
    prefixes = tuple(f"{log}/" for log in record.logs)
    return UsageProfile(first, tuple(np.diff(at).tolist()), record.repeats, prefixes)


class AnnouncementsService(AnnouncementsServicer):
    """Writes announcements to the metadata, by compare-and-swap (I9)."""

    def __init__(self, store: MetadataStore, slot_s: float) -> None:
        self._store, self._slot_s = store, slot_s

    @unary
    async def AddEvent(self, request: pb.AddEventRequest, context: Context) -> pb.JsonResponse:
        event = check_event(_decoded("event", request.event_json, Event))
        known, _ = await events_of(self._store)
        await self._put(event_table(self._store), event.name, event, EVENTS_MAX)
        replaced = next((e for e in known if e.name == event.name), None)
        shards = await shard_table(self._store).names()
        unmatched = [p for p in event.shards if not any(s.startswith(p) for s in shards)]
        beside = [e.name for e in known if e.name != event.name and overlap(e, event)]
        return answered(
            AddedEvent(added=event, replaced=replaced, overlaps=beside, unmatched=unmatched)
        )

    @unary
    async def RemoveEvent(
        self, request: pb.RemoveEventRequest, context: Context
    ) -> pb.JsonResponse:
        await self._delete(event_table(self._store), "event", request.name)
        return answered(Removed(removed=request.name))

    @unary
    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.JsonResponse:
        events, odd = await events_of(self._store)
        return answered(Events(events=events, odd=tuple(odd)))

    @unary
    async def SetProfile(self, request: pb.SetProfileRequest, context: Context) -> pb.JsonResponse:
        if not request.profile_json:
            await self._delete(profile_table(self._store), "profile of", request.group)
            return answered(Removed(removed=request.group))
        record = check_profile(_decoded("profile", request.profile_json, ProfileRecord))
        if record.group != request.group:
            raise InvalidArgumentError(f"group is {request.group!r} and {record.group!r}")
        usage(record, self._slot_s)
        await self._put(profile_table(self._store), record.group, record, GROUPS_MAX)
        known = set(await log_table(self._store).names())
        unmatched = [log for log in record.logs if log not in known]
        steps = len(record.ops_per_s)
        return answered(SetProfile(set=record.group, steps=steps, unmatched=unmatched))

    @unary
    async def ListProfiles(
        self, request: pb.ListProfilesRequest, context: Context
    ) -> pb.JsonResponse:
        profiles, odd = await profiles_of(self._store)
        return answered(Profiles(profiles=profiles, odd=tuple(odd)))

    async def _put(self, table: Table[T], name: str, record: T, limit: int) -> None:
        async def decide() -> Decided[None]:
            found = await table.entry(name)
            if found is None and len(await table.names()) >= limit:
                raise InvalidArgumentError(
                    f"{table.prefix} holds {limit} already, which is the limit"
                )
            return Decided(None, [table.unchanged(name, found)], [table.put(name, record)])

        await transact(self._store, table.key(name), decide)

    async def _delete(self, table: Table[T], what: str, name: str) -> None:
        if not name or await table.delete(name) is None:
            raise InvalidArgumentError(f"there is no {what} {name!r}")


class Announced:
    """Adds announcements to the forecasts: at the start, and at each change."""

    def __init__(self, store: MetadataStore, learner: ModelTrainer) -> None:
        self._store, self._learner = store, learner
        self._tasks = Background("announcements")

    async def start(self) -> None:
        missed = "what is announced is not followed"
        for table in (event_table(self._store), profile_table(self._store)):
            self._tasks.start(table.follow(self._changed, missed), f"follows {table.prefix}")

    async def close(self) -> None:
        await self._tasks.stop()

    async def take(self) -> None:
        """Read all, and hand it to the models. One that does not fit the slots is skipped."""
        slot_s = self._learner.intake.slot_s
        profiles = {}
        records, odd_profiles = await profiles_of(self._store)
        events, odd_events = await events_of(self._store)
        for entry in (*odd_profiles, *odd_events):
            _log.warning("a stored entry is not used", entry=entry.name, why=entry.odd)
        for record in records:
            try:
                profiles[record.group] = usage(record, slot_s)
            except InvalidArgumentError as e:
                _log.warning("a profile is not used", group=record.group, why=e.message)
        await self._learner.call(self._learner.intake.announce, events, profiles)

    async def _changed(self, _: Followed[Event] | Followed[ProfileRecord]) -> None:
        await self.take()


def event_table(store: MetadataStore) -> Table[Event]:
    """By name."""
    return Table(store, CALENDAR, lambda data: check_event(msgspec.json.decode(data, type=Event)))


def profile_table(store: MetadataStore) -> Table[ProfileRecord]:
    """By client group."""
    return Table(
        store, PROFILES, lambda data: check_profile(msgspec.json.decode(data, type=ProfileRecord))
    )


async def events_of(store: MetadataStore) -> tuple[list[Event], list[Odd]]:
    """Every announced event, earliest first, and the entries that are none."""
    found, odd = await event_table(store).all_and_odd()
    return sorted(found, key=lambda event: (event.start_s, event.name)), odd


async def profiles_of(store: MetadataStore) -> tuple[list[ProfileRecord], list[Odd]]:
    """Every profile, and the entries that are none."""
    return await profile_table(store).all_and_odd()


def _check_time(field: str, time_s: float) -> None:
    if not TIME_S_MIN <= time_s <= TIME_S_MAX:
        raise InvalidArgumentError(
            f"{field} is {time_s:g}, the limit is {TIME_S_MIN} to {TIME_S_MAX} Unix seconds (the "
            "years 1 to 9999)"
        )


def _check_list(field: str, names: Sequence[str]) -> None:
    if len(names) > LIST_MAX:
        raise InvalidArgumentError(f"{field} has {len(names)} entries, the limit is {LIST_MAX}")
    for name in names:
        _check_name(field, name)


def _check_name(field: str, name: str) -> None:
    checked_name(field, name)


def _decoded(what: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError) as e:
        raise InvalidArgumentError(f"{what}: {e}") from None
