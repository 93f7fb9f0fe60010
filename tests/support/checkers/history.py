"""What a run records, as plain data. Times are seconds of one clock that all entries share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    text: str
    at_s: float = 0.0


class Outcome(StrEnum):
    ACKED = "acked"
    REFUSED = "refused"
    """Surely not stored."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class AppendCall:
    """One append of one record; `value` is unique in the run."""

    client: str
    key: bytes
    value: bytes
    called_s: float
    expected_version: int | None = None
    returned_s: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    shard: str = ""
    offset: int = -1
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it is stored or was read."""

    shard: str
    offset: int
    key: bytes
    value: bytes
    timestamp_us: int


@dataclass(slots=True)
class ReadCall:
    """One read that ended without an error, or a tail so far. `key=None`: all keys."""

    client: str
    key: bytes | None
    called_s: float
    returned_s: float
    rows: list[Row]
    tail: bool = False


@dataclass(frozen=True, slots=True)
class LatestRead:
    """A read that asked for the latest was answered; `end` is the high watermark it was shown."""

    client: str
    instance: str
    shard: str
    called_s: float
    end: int


@dataclass(frozen=True, slots=True)
class CopyRead:
    """A read of one copy as it is was answered; `end` is the high watermark it was shown."""

    client: str
    instance: str
    shard: str
    called_s: float
    end: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Between the two times clients reach the instance, and nobody else does."""

    instance: str
    since_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Divergence:
    """The product found that the committed part of two copies differs."""

    at_s: float
    shard: str
    text: str


@dataclass(frozen=True, slots=True)
class ServerAck:
    """An instance answered an append, as its primary, with success (no duplicate, not forwarded).

    `epoch` is the one stamped on the stored batch.
    """

    at_s: float
    instance: str
    shard: str
    epoch: int
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class MetadataTxn:
    """One that changed something. `compared`: key -> revision; `written`: None deletes."""

    at_s: float
    author: str
    compared: Mapping[str, int]
    written: Mapping[str, bytes | None]
    revision: int


@dataclass(frozen=True, slots=True)
class Link:
    """A stored batch: its offsets [base, end), the epoch that stamped it, the chain after it."""

    base: int
    end: int
    epoch: int
    chain: bytes


@dataclass(frozen=True, slots=True)
class CopyState:
    """One copy on one disk, at one moment."""

    instance: str
    replica_id: int
    shard: str
    base: int
    high_watermark: int
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """A copy left what its disk serves (`retired`), the disk (`dropped`), or is `restored`.

    `end`: of its log then, where that is known.
    """

    at_s: float
    instance: str
    replica_id: int
    what: str
    shard: str = ""
    end: int = 0


@dataclass(frozen=True, slots=True)
class Floor:
    """From `at_s` on no copy of the shard has records below `base`."""

    at_s: float
    shard: str
    base: int


@dataclass(slots=True)
class History:
    """All that a run recorded."""

    appends: list[AppendCall] = field(default_factory=list)
    conflicts: set[bytes] = field(default_factory=set)
    """Values whose append was refused because of the version."""
    ahead: set[bytes] = field(default_factory=set)
    """Of those the ones whose key had fewer records than were expected."""
    reads: list[ReadCall] = field(default_factory=list)
    latest: list[LatestRead] = field(default_factory=list)
    copy_reads: list[CopyRead] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    forged: set[str] = field(default_factory=set)
    """Shards a copy of which was given other bytes."""
    divergences: list[Divergence] = field(default_factory=list)
    acks: list[ServerAck] = field(default_factory=list)
    metadata: list[MetadataTxn] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    trimmed: dict[tuple[str, int], Row] = field(default_factory=dict)
    """(shard, offset) -> what was there when a copy of it was trimmed first."""
    trimmed_s: dict[bytes, float] = field(default_factory=dict)
    """Value of such a record -> when that was; values are unique."""
    trims: list[Floor] = field(default_factory=list)
    """Where the copy that was trimmed begins; others may begin below."""
    floors: list[Floor] = field(default_factory=list)

    def whole(self, rows: Sequence[Row]) -> list[Row]:
        """`rows`, as read at the end, and what was trimmed: each key's records in their order.

        A successor's shard has a higher number than its parents'. A trimmed record whose offset
        another one has now was lost with all above it before that was appended.
        """
        if not self.trimmed:
            return list(rows)
        read = {(row.shard, row.offset): row for row in rows}
        lost_from: dict[str, int] = {}
        for (shard, offset), row in self.trimmed.items():
            if (shard, offset) in read and read[shard, offset].value != row.value:
                lost_from[shard] = min(offset, lost_from.get(shard, offset))
        trimmed = {
            (shard, offset): row
            for (shard, offset), row in self.trimmed.items()
            if shard not in lost_from or offset < lost_from[shard]
        }
        known = trimmed | read
        return sorted(known.values(), key=_place)


def _place(row: Row) -> tuple[int, int]:
    return int(row.shard.rpartition("/")[2]), row.offset
