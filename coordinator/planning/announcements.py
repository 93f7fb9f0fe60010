"""What people know of the future: events of the calendar and profiles of client groups.

The metadata holds them (`/calendar/NAME`, `/profiles/GROUP`); every coordinator watches them and
takes them into its forecasts, so they survive restarts and leaders.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
import structlog

from coordinator.answers.announced import AddedEvent, Events, Profiles, Removed, SetProfile
from coordinator.rpc_errors import Context, answered, unary
from coordinator.statistics.model_trainer import ModelTrainer
from coordinator.unreadable import Odd, decoded
from logstore.base.errors import ConflictError, InvalidArgumentError, LogstoreError
from logstore.base.names import checked_name
from logstore.meta.port import Compare, Delete, MetadataStore, Put
from logstore.meta.records import LOGS, SHARDS, ProfileRecord
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import AnnouncementsServicer
from profiler.calendar import EVENTS_MAX, Event
from profiler.forecast.groups import GROUPS_MAX, PROFILE_SLOTS_MAX, UsageProfile

CALENDAR = "/calendar/"
PROFILES = "/profiles/"
LIST_MAX = 1_024
"""Logs that a profile names."""
TIME_S_MIN, TIME_S_MAX = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, which every calendar can show."""
STEP_S_MAX = 366 * 86_400.0
STEPS_MAX = 10_000
"""Steps of one profile: it is one value of the metadata, which are small."""
EVENT_TIME_MAX_S = 7_258_118_400.0
EVENT_DAYS_MAX = 366
EVENT_SHARDS_MAX = 1_000
RETRY_S = 0.2
_TRIES = 10

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def check_profile(record: ProfileRecord) -> ProfileRecord:
    """Refuse what cannot be kept or forecast with."""
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
    """Refuse what no forecast can be made with: bounds beside those of the type itself.

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
    """Do both touch a shard at some time?"""
    if not (one.start_s < other.end_s and other.start_s < one.end_s):
        return False
    if not one.shards or not other.shards:
        return True
    return any(a.startswith(b) or b.startswith(a) for a in one.shards for b in other.shards)


def usage(record: ProfileRecord, slot_s: float) -> UsageProfile:
    """The profile in operations a slot; a step may be shorter or longer than a slot.

    InvalidArgumentError where it repeats after what is not a whole number of slots, or is too long.
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
    """Writes what is announced to the metadata, by compare-and-swap (I9)."""

    def __init__(self, store: MetadataStore, slot_s: float) -> None:
        self._store, self._slot_s = store, slot_s

    @unary
    async def AddEvent(self, request: pb.AddEventRequest, context: Context) -> pb.JsonResponse:
        event = check_event(_decoded("event", request.event_json, Event))
        known, _ = await events_of(self._store)
        await self._put(CALENDAR, event.name, event, EVENTS_MAX)
        replaced = next((e for e in known if e.name == event.name), None)
        shards = [i.key.removeprefix(SHARDS) for i in (await self._store.range(SHARDS)).items]
        unmatched = [p for p in event.shards if not any(s.startswith(p) for s in shards)]
        beside = [e.name for e in known if e.name != event.name and overlap(e, event)]
        return answered(
            AddedEvent(added=event, replaced=replaced, overlaps=beside, unmatched=unmatched)
        )

    @unary
    async def RemoveEvent(
        self, request: pb.RemoveEventRequest, context: Context
    ) -> pb.JsonResponse:
        await self._delete(CALENDAR, "event", request.name)
        return answered(Removed(removed=request.name))

    @unary
    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.JsonResponse:
        events, odd = await events_of(self._store)
        return answered(Events(events=events, odd=tuple(odd)))

    @unary
    async def SetProfile(self, request: pb.SetProfileRequest, context: Context) -> pb.JsonResponse:
        if not request.profile_json:
            await self._delete(PROFILES, "profile of", request.group)
            return answered(Removed(removed=request.group))
        record = check_profile(_decoded("profile", request.profile_json, ProfileRecord))
        if record.group != request.group:
            raise InvalidArgumentError(f"group is {request.group!r} and {record.group!r}")
        usage(record, self._slot_s)
        await self._put(PROFILES, record.group, record, GROUPS_MAX)
        known = {item.key.removeprefix(LOGS) for item in (await self._store.range(LOGS)).items}
        unmatched = [log for log in record.logs if log not in known]
        steps = len(record.ops_per_s)
        return answered(SetProfile(set=record.group, steps=steps, unmatched=unmatched))

    @unary
    async def ListProfiles(
        self, request: pb.ListProfilesRequest, context: Context
    ) -> pb.JsonResponse:
        profiles, odd = await profiles_of(self._store)
        return answered(Profiles(profiles=profiles, odd=tuple(odd)))

    async def _put(self, prefix: str, name: str, value: object, limit: int) -> None:
        for _ in range(_TRIES):
            found = await self._store.get(prefix + name)
            if found is None and len((await self._store.range(prefix)).items) >= limit:
                raise InvalidArgumentError(f"{prefix} holds {limit} already, which is the limit")
            revision = found.revision if found is not None else 0
            put = Put(prefix + name, msgspec.json.encode(value))
            if (await self._store.txn([Compare(put.key, revision)], [put])).succeeded:
                return
        raise ConflictError(f"{prefix}{name} changed too often, try again")

    async def _delete(self, prefix: str, what: str, name: str) -> None:
        for _ in range(_TRIES):
            found = await self._store.get(prefix + name) if name else None
            if found is None:
                raise InvalidArgumentError(f"there is no {what} {name!r}")
            compares = [Compare(found.key, found.revision)]
            if (await self._store.txn(compares, [Delete(found.key)])).succeeded:
                return
        raise ConflictError(f"{prefix}{name} changed too often, try again")


class Announced:
    """Takes what is announced into the forecasts: at the start, and at each change."""

    def __init__(self, store: MetadataStore, learner: ModelTrainer) -> None:
        self._store, self._learner = store, learner
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._follow(prefix), name=f"follows {prefix}")
            for prefix in (CALENDAR, PROFILES)
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def take(self) -> None:
        """Read all, and hand it to the models. One that does not fit the slots is told and left."""
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

    async def _follow(self, prefix: str) -> None:
        while True:
            try:
                revision = (await self._store.range(prefix)).revision
                await self.take()
                watch = self._store.watch(prefix, revision)
                async with contextlib.aclosing(watch):  # type: ignore[type-var]
                    async for _ in watch:
                        await self.take()
            except ConflictError:
                continue  # the watch's history was compacted
            except LogstoreError as e:
                _log.warning("what is announced is not followed", why=e.message)
                await asyncio.sleep(RETRY_S)


async def events_of(store: MetadataStore) -> tuple[list[Event], list[Odd]]:
    """Every announced event, earliest first, and the entries that are none."""
    items = (await store.range(CALENDAR)).items
    found, odd = decoded(items, CALENDAR, lambda data: check_event(_event(data)))
    return sorted(found, key=lambda event: (event.start_s, event.name)), odd


async def profiles_of(store: MetadataStore) -> tuple[list[ProfileRecord], list[Odd]]:
    """Every profile, and the entries that are none."""
    items = (await store.range(PROFILES)).items
    return decoded(items, PROFILES, lambda data: check_profile(_profile(data)))


def _event(data: bytes) -> Event:
    return msgspec.json.decode(data, type=Event)


def _profile(data: bytes) -> ProfileRecord:
    return msgspec.json.decode(data, type=ProfileRecord)


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
