"""The change stream of a log for others: every committed record, to a topic that the log names.

One message a record: key and value as they are, the record's headers, and `logstore-shard`,
`logstore-offset` of its place. A key is always in one partition, and in its order: a successor of a
split or merge begins once its parents' cursors reached their ends (S4). It is at least once: after
a failure some records come again, with the same place, and a reader drops what it has seen.

The cursor is a key in the metadata, moved behind what every in-sync broker holds; the next
primary goes on from there.
"""

import asyncio

import structlog

from logstore.base.errors import LogstoreError, UnreadableBatchError
from logstore.base.limits import SNAPSHOT_CHUNK_BYTES
from logstore.engine.batch import FLAG_HEADERS, FLAG_TIMES, StoredBatch
from logstore.feed.port import Broker, Change, ChangeWriter
from logstore.meta.port import Compare
from logstore.meta.records import ChangefeedCursor
from logstore.meta.tables import changefeed_table
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, is_sealed
from logstore.replication.events import Role

IDLE_S = 0.5
CURSOR_INTERVAL_S = 1.0
"""A cursor is written this often at most: no more than this is published again after a kill."""
PARENT_POLL_S = 0.2
_log = structlog.get_logger(__name__)


class Changefeed:
    """Publishes one shard's records to the log's topic while this copy leads."""

    def __init__(self, copy: Copy, node: NodeContext, broker: Broker, topic: str) -> None:
        self._copy, self._node, self._broker, self._topic = copy, node, broker, topic
        self._cursors = changefeed_table(node.store)
        self.offset = 0
        """Everything below it is in the topic."""
        self._stored, self._revision, self._stored_s = 0, 0, 0.0

    async def run(self) -> None:
        """Until cancelled, or until all of a sealed shard is published."""
        config = self._node.config
        while True:
            try:
                await self._session()
                return
            except LogstoreError as e:
                _log.info("changefeed broke", shard=self._copy.shard, error=e.message)
            await asyncio.sleep(config.retry_interval_s)

    async def _session(self) -> None:
        copy = self._copy
        await self._parents_published()
        await self._load()
        await self._broker.ensure_changefeed(self._topic)
        async with self._broker.change_writer(self._topic) as writer:
            while not self._ended():
                if copy.role is Role.PRIMARY:
                    await self._publish(writer)
                await self._store(force=self._ended())
                if not self._ended():
                    await copy.wait_mark(IDLE_S)
        await self._store(force=True)

    def _ended(self) -> bool:
        record = self._copy.record
        end = record.sealed_end
        return is_sealed(record) and end is not None and self.offset >= end

    async def _publish(self, writer: ChangeWriter) -> None:
        copy = self._copy
        while (mark := copy.high_watermark) > self.offset:
            batches = copy.log.read(self.offset, mark, SNAPSHOT_CHUNK_BYTES)
            for batch in batches:
                await writer.write(copy.shard, self._changes(batch))
                self.offset = batch.end
            await self._store(force=False)

    def _changes(self, batch: StoredBatch) -> list[Change]:
        """A batch that cannot be read will never be: log it and go on after it."""
        try:
            return changes_of(batch, self.offset)
        except UnreadableBatchError as e:
            _log.error("records left out of the changefeed", shard=self._copy.shard,
                       topic=self._topic, error=e.message)  # fmt: skip
            return []

    async def _parents_published(self) -> None:
        """S4: a key's history in the parents comes before its own."""
        for parent in self._copy.record.predecessors:
            while True:
                record = self._node.shard_record(parent)
                if record is None or record.sealed_end is None:
                    break  # trimmed away with its history
                cursor = await self._cursors.get(parent)
                if record.sealed_end == 0 or (cursor and cursor.offset >= record.sealed_end):
                    break
                await asyncio.sleep(PARENT_POLL_S)

    async def _load(self) -> None:
        copy = self._copy
        found = await self._cursors.entry(copy.shard)
        self._revision = found.revision if found is not None else 0
        self._stored = found.record.offset if found is not None else 0
        base = copy.log.base().end
        if base > self._stored:
            _log.warning("records were trimmed before they were published", shard=copy.shard,
                         first=self._stored, stop=base)  # fmt: skip
        self.offset = max(self._stored, base)

    async def _store(self, *, force: bool) -> None:
        """Move the cursor; another's move is read and overtaken, never turned back."""
        now_s = self._node.now_s()
        due = now_s - self._stored_s >= CURSOR_INTERVAL_S
        if self.offset <= self._stored or not (force or due):
            return
        shard = self._copy.shard
        put = self._cursors.put(shard, ChangefeedCursor(self.offset))
        done = await self._node.store.txn([Compare(put.key, self._revision)], [put])
        if done.succeeded:
            self._stored, self._revision, self._stored_s = self.offset, done.revision, now_s
            return
        found = await self._cursors.entry(shard)
        if found is not None:
            self._revision = found.revision
            self._stored = found.record.offset


def changes_of(batch: StoredBatch, start: int) -> list[Change]:
    """The records of a batch from offset `start` on."""
    rows = batch.records()
    keys, values = rows.column("key").to_pylist(), rows.column("value").to_pylist()
    at_us = batch.append_time_us
    given = rows.column("timestamp").to_pylist() if batch.flags & FLAG_TIMES else []
    times = [at_us if t is None else int(t) for t in given] or [at_us] * len(keys)
    headers = (
        rows.column("headers").to_pylist() if batch.flags & FLAG_HEADERS else [None] * len(keys)
    )
    return [
        Change(
            offset=batch.base_offset + i,
            key=keys[i],
            value=values[i],
            timestamp_us=times[i],
            headers=tuple((h["name"], h["value"]) for h in headers[i] or ()),
        )
        for i in range(max(0, start - batch.base_offset), len(keys))
    ]
