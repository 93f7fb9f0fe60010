"""The options of calls, typed, so that editors and mypy know a wrong one; and the errors of wrong
options at run time.
"""

import dataclasses
import datetime
import difflib
from collections.abc import Mapping, Set
from enum import Enum
from typing import Any, Literal, TypedDict

import msgspec

from logstore.base.errors import InvalidArgumentError
from logstore.base.public import public
from logstore.base.types import Compression, Durability, TimestampPolicy
from logstore.client import bounds
from logstore.client.read_spec import Order
from logstore.meta.records import LogOptions
from sharder.keys import Partitioner

PartitionerName = Partitioner | Literal["range", "hash", "balanced"]
"""How keys become routing keys."""

CREATE_LOG = ("partitioner", "shards", "split_keys", "instances")
"""Arguments of `create_log` beside `CreateLogOptions`."""


@public
class CreateLogOptions(TypedDict, total=False):
    """Options of a new log; the others have the cluster's defaults.

    replicas: copies of each shard.
    min_in_sync: copies that must hold a record before it is acked.
    durability: "os" (acked when in the page cache) or "fsync" (acked when on the disk).
    compression: of stored batches: "none", "lz4" or "zstd".
    key_index: whether one key is found without a scan of its shard.
    event_time: whether statistics use the records' own timestamps.
    retention_s, retention_bytes: how long and how much is kept; None: everything.
    changefeed: a Kafka topic that every committed record is published to; None: none.
    timestamp_ahead_max_s: seconds that a timestamp may be ahead of the primary's clock; None: any.
    timestamp_policy: "refuse" or "clamp" timestamps that are further ahead.
    placement_randomness: of a balanced log: share of new keys that are drawn by headroom alone.
    placement_weights: of a balanced log: instance -> times its share of the new keys; 0: none.

    Example:
        log = await db.create_log("audit", shards=2, compression="zstd", durability="fsync")
    """

    replicas: int
    min_in_sync: int
    durability: Durability | Literal["os", "fsync"]
    compression: Compression | Literal["none", "lz4", "zstd"]
    key_index: bool
    event_time: bool
    retention_s: float | None
    retention_bytes: int | None
    changefeed: str | None
    timestamp_ahead_max_s: float | None
    timestamp_policy: TimestampPolicy | Literal["refuse", "clamp"]
    placement_randomness: float
    placement_weights: dict[str, float]


class Selection(TypedDict, total=False):
    """Which records: the options that reads, scans and tails share."""

    key: bytes | None
    start: bytes | None
    end: bytes | None
    since: int | datetime.datetime | None
    shard: str | None
    offset: int | None
    limit: int | None


@public
class ReadOptions(Selection, total=False):
    """Options of `Log.read` and `Log.scan`; without any, they give the whole log.

    key: of this key alone; excludes start and end.
    start, end: of keys in [start, end).
    since: from this time on: int64 microseconds since 1970 UTC, or a datetime with a zone.
    shard: of this shard alone, as "orders/0".
    offset: from this offset on; needs shard.
    limit: so many records at most.
    order: "any" (each key's order; fastest) or "key" (by key, then offset).

    Example:
        table = await log.scan(start=b"user-", end=b"user.", limit=1_000).to_arrow()
    """

    order: Order


@public
class TailOptions(Selection, total=False):
    """Options of `Log.tail`: those of ReadOptions without order, and two more.

    from_start: whether stored records come first.
    idle_timeout_s: the tail ends when a step waited this many seconds for a record.

    Example:
        async for record in log.tail(key=b"user-1", from_start=True, limit=1):
            print(record.value)
    """

    from_start: bool
    idle_timeout_s: float | None


@public
class PlaceOptions(TypedDict, total=False):
    """Options of `Log.place`, for a key that has no place yet.

    size: bytes of a record of this key; None: what was learned.
    schema: whose learned rate, size and records count; empty: the log's own.
    randomness: 0 to 1, 1 draws by headroom alone; None: the log's `placement_randomness`.
    weights: instance -> times its share, 0 excludes it; None: the log's `placement_weights`.

    Example:
        log = await db.create_log("carts", partitioner="balanced")
        placed = await log.place(b"user-1", randomness=0.2, weights={"instance-1": 2.0})
    """

    size: int | None
    schema: str
    randomness: float | None
    weights: Mapping[str, float] | None


READ = frozenset(ReadOptions.__annotations__)
TAIL = frozenset(TailOptions.__annotations__)
PLACE = frozenset(PlaceOptions.__annotations__)
_LOG_KINDS = {field.name: field.type for field in dataclasses.fields(LogOptions)}
_OF_A_LOG = frozenset({*_LOG_KINDS, *CREATE_LOG})


def refuse_unknown(what: str, given: Mapping[str, object], known: Set[str]) -> None:
    """InvalidArgumentError for an unknown option; it names similar ones."""
    if given.keys() <= known:
        return
    field = next(field for field in given if field not in known)
    close = difflib.get_close_matches(field, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else _all_of(known)
    raise InvalidArgumentError(
        f"{what} has no option {field[:80]} (it is {bounds.shown(given[field])}): {hint}"
    )


def _all_of(known: Set[str]) -> str:
    return f"its options are {', '.join(sorted(known))}"


def check_log(name: str, given: Mapping[str, Any]) -> None:
    """The options of a new log, by name and kind; the cluster checks their bounds."""
    refuse_unknown("a log", given, _OF_A_LOG)
    for field, value in given.items():
        kind: Any = _LOG_KINDS[field]
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as e:
            raise InvalidArgumentError(
                f"options of log {name!r}: {field} is {bounds.shown(value)}, {_wanted(kind, e)}"
            ) from e


def _wanted(kind: Any, error: msgspec.ValidationError) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"expected one of {', '.join(member.value for member in kind)}"
    return f"{error}".partition(" - at")[0].replace("`", "").replace("Expected", "expected")
