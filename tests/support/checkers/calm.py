"""No author writes a shard's record again and again: all share the metadata store."""

from collections import defaultdict, deque
from collections.abc import Sequence

from logstore.meta.records import SHARDS, ShardRecord, decode_shard
from tests.support.checkers.history import MetadataTxn, Violation

TERMS_MAX = 10
"""Epochs that one author may begin for a shard in a second, its members being the same. Each start
of its process begins one, and a disk that is full for moments two or three."""


def check(txns: Sequence[MetadataTxn], terms_max: int = TERMS_MAX) -> list[Violation]:
    """An author begins a shard's terms no faster than so many a second, while nothing else of the
    shard changes (P4: a primary whose writes fail is silent in between)."""
    newest: dict[str, ShardRecord] = {}
    terms: dict[tuple[str, str], deque[float]] = defaultdict(deque)
    found: dict[tuple[str, str], Violation] = {}
    for txn in txns:
        for key, value in txn.written.items():
            if not key.startswith(SHARDS) or value is None:
                continue
            record = decode_shard(value)
            before = newest.get(key)
            newest[key] = record
            if before is None or before.primary.instance != record.primary.instance:
                continue
            alike = {m.instance for m in before.in_sync} == {m.instance for m in record.in_sync}
            if not alike or before.primary_since == record.primary_since:
                continue
            times = terms[txn.author, key]
            times.append(txn.at_s)
            while times[0] < txn.at_s - 1.0:
                times.popleft()
            if len(times) > terms_max:
                text = f"{txn.author} began {len(times)} terms of {record.shard} within a second"
                found.setdefault((txn.author, key), Violation("calm", text, txn.at_s))
    return list(found.values())
