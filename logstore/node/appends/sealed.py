"""Answers of a copy of a sealed shard: retries, from its final producer table, and key versions.

A sealed shard never reopens (S5), so the content of its copy at `sealed_end` is final: a retry is
a duplicate, or surely not stored, now and for ever (docs/design/0005-seals.md).
"""

import asyncio

from logstore.base import limits
from logstore.base.errors import (
    LogstoreError,
    OutcomeUnknownError,
    OutOfRangeError,
    ShardSealedError,
    UnavailableError,
)
from logstore.base.types import Ack
from logstore.engine.batch import time_at
from logstore.engine.port import ProducerEntry
from logstore.engine.producers import ProducerTable
from logstore.meta.records import ShardRecord
from logstore.node.intake.appends import PendingAppend
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import PeerServiceStub
from sharder.keys import routing_key

VERSIONS_KEPT_MAX = 10_000
"""Keys whose version in the ancestors is remembered; it is final, forgetting costs a call."""
ASK_TIMEOUT_S = 1.0


class SealedAnswers:
    """Answers to appends that reach a sealed shard's copy."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._table: ProducerTable | None = None
        self._table_end = 0
        """The sealed end that the table is of."""
        self._full = False
        """Other producers may have been forgotten."""

    def settle(self, append: PendingAppend) -> None:
        """A duplicate with its offset, or not stored; NotServingError where this copy is short."""
        copy = self._copy
        copy.check(Purpose.ANSWER_SEAL)
        if append.done.done():
            return
        entry = self._known(append)
        if entry is None:
            raise ShardSealedError(f"shard {copy.shard} was sealed before: not stored")
        append.duplicate = True
        time_us = self._time_at(entry.offset)
        if append.expected_version is not None:
            append.version = append.expected_version + 1  # it was stored on this condition
        append.done.set_result(Ack(copy.shard, entry.offset, time_us, entry.count, append.version))

    def _known(self, append: PendingAppend) -> ProducerEntry | None:
        if not append.producer_id:
            return None
        copy = self._copy
        end = copy.record.sealed_end or 0  # what a copy may hold above it is not stored
        if self._table is None or self._table_end != end:
            found = copy.log.producers()
            self._table_end = end
            self._full = len(found) >= limits.PRODUCERS_PER_SHARD_MAX
            self._table = ProducerTable(
                {p: [e for e in kept if e.offset + e.count <= end] for p, kept in found.items()}
            )
        last = self._table.last(append.producer_id)
        entry = self._table.find(append.producer_id, append.sequence)
        forgotten = self._full and last == 0
        if entry is None and (forgotten or append.sequence < last):
            raise OutcomeUnknownError(
                f"sequence is {append.sequence}; sealed shard {self._copy.shard} remembers the "
                f"last {limits.PRODUCER_WINDOW} of a producer"
            )
        return entry

    def _time_at(self, offset: int) -> int:
        """The record's timestamp; 0 where it was trimmed since."""
        copy = self._copy
        try:
            batch = copy.log.read(offset, offset + 1, 1)[0]
        except OutOfRangeError:
            return 0
        return time_at(batch, offset)


class AncestorVersions:
    """Records of a key in a shard's sealed ancestors (S3); asked once, then known."""

    def __init__(self, copy: Copy, node: NodeContext) -> None:
        self._copy, self._node = copy, node
        self._known: dict[bytes, int] = {}

    def known(self, key: bytes) -> int | None:
        """The version, if it was fetched before; 0 for a shard without ancestors."""
        if not self._copy.record.predecessors:
            return 0
        return self._known.get(key)

    async def fetch(self, key: bytes) -> int:
        """Sum over all ancestors whose range holds the key; UnavailableError: none answered."""
        routed = routing_key(self._copy.options.partitioner, key)
        todo, seen, total = list(self._copy.record.predecessors), set[str](), 0
        while todo:
            name = todo.pop()
            record = self._node.shard_record(name)
            if record is None:
                raise UnavailableError(f"shard {name}, an ancestor, is not known here")
            if name in seen or routed not in record.range:
                continue
            seen.add(name)
            todo.extend(record.predecessors)
            total += await self._ask(record, key)
        if len(self._known) >= VERSIONS_KEPT_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[key] = total
        return total

    async def _ask(self, record: ShardRecord, key: bytes) -> int:
        """One ancestor, from this instance's copy if it has one, else from any other."""
        node = self._node
        own = node.open_copy(record.shard)
        if own is not None and own.availability(Purpose.ANSWER_SEAL).allowed:
            return key_version(own, key)
        failed = "no instance holds it"
        for member in record.in_sync:
            if member.instance == node.instance:
                continue
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S), called():
                    stub = PeerServiceStub(node.channel_to(member.instance))
                    request = node_pb2.KeyVersionRequest(shard=record.shard, key=key)
                    return int((await stub.KeyVersion(request)).version)
            except TimeoutError:
                failed = f"{member.instance} did not answer"
            except LogstoreError as e:
                failed = e.message
        raise UnavailableError(f"the key's version in sealed shard {record.shard}: {failed}")


def key_version(copy: Copy, key: bytes) -> int:
    """Records of the key in a sealed shard, its own ancestors not counted; final (S3)."""
    copy.check(Purpose.ANSWER_SEAL)
    return copy.log.count_key(key, copy.record.sealed_end or 0)
