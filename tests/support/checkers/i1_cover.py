"""I1: at every map version the open shards of a log cover its key space exactly once."""

from collections.abc import Sequence

from logstore.base.types import ShardStatus
from logstore.meta.records import LOGS, SHARDS, ShardRecord, decode_shard
from tests.support.checkers.history import MetadataTxn, Violation


def check_ranges(log: str, shards: Sequence[ShardRecord]) -> list[Violation]:
    """One version of one log."""
    open_ = sorted(
        (s for s in shards if s.status is not ShardStatus.SEALED), key=lambda s: s.range.start
    )
    at: bytes | None = b""
    for shard in open_:
        if at is None or shard.range.start != at:
            return [Violation("I1", f"log {log}: {shard.shard} starts at {shard.range.start!r}, "
                                    f"the one before it ends at {at!r}")]  # fmt: skip
        at = shard.range.end
    if at is not None:
        return [Violation("I1", f"log {log}: no shard holds keys from {at!r} on")]
    return []


def check(txns: Sequence[MetadataTxn]) -> list[Violation]:
    """Every revision of the history, for each log that exists there."""
    logs: set[str] = set()
    shards: dict[str, ShardRecord] = {}
    found: list[Violation] = []
    for txn in txns:
        touched: set[str] = set()
        for key, value in txn.written.items():
            if key.startswith(LOGS):
                log = key.removeprefix(LOGS)
                touched.add(log)
                (logs.discard if value is None else logs.add)(log)
            elif key.startswith(SHARDS):
                record = shards.pop(key, None)
                if value is not None:
                    record = shards[key] = decode_shard(value)
                if record is not None:
                    touched.add(record.log)
        for log in sorted(touched & logs):
            of_log = [s for s in shards.values() if s.log == log]
            found += [Violation("I1", f"revision {txn.revision}: {v.text}", txn.at_s)
                      for v in check_ranges(log, of_log)]  # fmt: skip
    return found
