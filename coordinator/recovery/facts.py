"""Inputs of recovery: the data directories that were read, and their copies. Pure."""

from dataclasses import dataclass

import msgspec

from logstore.engine.port import CopyFacts
from logstore.meta.records import LogRecord, ShardRecord, decode_log, decode_shard


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """A data directory and its identity; `process`: the number that it registered last."""

    instance: str
    cluster: str
    incarnation: int = 0
    process: int = 0
    generation: str = ""
    revision: int = 0
    directory: str = ""


@dataclass(frozen=True, slots=True)
class FoundCopy:
    """A copy on a disk. `record`, `log` and `revision`: what its owner acted on last; None: it was
    stored before such facts were.

    `chain`: the hash chain at `end`. `damage`: why it is not whole; `tail_lost`: only its end may
    be missing. `retired`: the cause, None for a copy that is not retired; `retired_revision`: of
    the tombstone that ordered it.
    """

    instance: str
    replica_id: int
    shard: str
    cluster: str = ""
    generation: str = ""
    revision: int = 0
    record: ShardRecord | None = None
    log: LogRecord | None = None
    base: int = 0
    end: int = 0
    chain: bytes = b""
    last_epoch: int = 0
    size_bytes: int = 0
    damage: str = ""
    tail_lost: bool = False
    retired: str | None = None
    retired_revision: int = 0
    keep_until_us: int = 0

    @property
    def log_name(self) -> str:
        return self.shard.rpartition("/")[0]

    @property
    def number(self) -> int:
        """The shard's number within its log."""
        return int(self.shard.rpartition("/")[2])

    def length(self) -> tuple[int, int, int]:
        """The order of leaders: the epoch of the last batch, then the end (P6)."""
        return self.last_epoch, self.end, -self.replica_id

    def age(self) -> tuple[int, int]:
        """The age of the record: epochs only grow, over recoveries too; then the revision."""
        epoch = self.record.epoch if self.record is not None else 0
        return epoch, self.revision


@dataclass(frozen=True, slots=True)
class DiskScan:
    """The content of one or more data directories; a JSON file carries it between machines."""

    instances: tuple[FoundInstance, ...] = ()
    copies: tuple[FoundCopy, ...] = ()

    def joined(self, other: "DiskScan") -> "DiskScan":
        return DiskScan(self.instances + other.instances, self.copies + other.copies)


def encode_scan(scan: DiskScan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(scan))


def decode_scan(data: bytes) -> DiskScan:
    """`msgspec.DecodeError` for another document."""
    return msgspec.json.decode(data, type=DiskScan)


def records_of(facts: CopyFacts | None) -> tuple[ShardRecord | None, LogRecord | None]:
    """The records in a copy's facts; None for what cannot be read."""
    if facts is None:
        return None, None
    return decoded(facts.shard_record, facts.log_record)


def decoded(shard: bytes, log: bytes) -> tuple[ShardRecord | None, LogRecord | None]:
    """Both records, or None for both: one alone is not enough."""
    try:
        return decode_shard(shard), decode_log(log)
    except msgspec.DecodeError:
        return None, None
