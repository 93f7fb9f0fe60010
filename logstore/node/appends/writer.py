"""The primary's data path of one shard: queue, dedupe, offsets, stored batches, acks.

Sequence rules (I6, P10): a producer's appends to a shard count from 1; only last + 1 is
new; an older one within the window is a duplicate, answered with what it cites once that is
committed. `expected_version` is checked after dedupe, against a count that includes the group.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from logstore.base import limits
from logstore.base.errors import (
    InvalidArgumentError,
    LogstoreError,
    OutOfRangeError,
    OutOfSequenceError,
    OverloadedError,
    UnavailableError,
    VersionAheadError,
    VersionConflictError,
)
from logstore.base.steady_clock import next_stamp
from logstore.base.types import Ack, Durability, Position, ProducerSpan
from logstore.engine.batch import StoredBatch, build, encode_payload, time_at
from logstore.engine.port import ProducerEntry, ReplicaWrite
from logstore.engine.producers import ProducerTable
from logstore.engine.shard_log import ShardLog
from logstore.meta.records import LogOptions
from logstore.node.appends.stamps import admit_stamps
from logstore.node.intake.appends import PendingAppend, rows_to_batch

MERGE_BYTES_MAX = 64 * 1024
"""Consecutive appends are merged into one stored batch up to this weight."""
MERGE_ITEM_BYTES_MAX = 16 * 1024
"""An append larger than this is stored as it came."""
VERSION_CACHE_KEYS = 10_000


@dataclass(slots=True)
class _Waiting:
    """Appends that may be acked when the high watermark reaches `needed`."""

    needed: int
    appends: list[PendingAppend]


@dataclass(eq=False, slots=True)
class ShardWriter:
    """One shard's appends while this copy leads. A `Source` of the group commit; loop only.

    `on_assigned` gets the new batches before they are written (replication in parallel) and says
    whether they go to peers; `on_written` and `on_failed` report the group's outcome.
    """

    shard: str
    log: ShardLog
    options: LogOptions
    wall_us: Callable[[], int]
    on_assigned: Callable[[list[StoredBatch]], bool]
    on_written: Callable[[Position], None]
    on_failed: Callable[[LogstoreError], None]
    durability: Durability = Durability.OS
    latest_us: Callable[[], int] | None = None
    """The clock that producers' timestamps are compared with; None: `wall_us`."""

    _open: bool = False
    sent: bool = False
    """The group being written goes to peers, too."""
    epoch: int = 0
    end: Position = field(default_factory=Position)
    queue: deque[PendingAppend] = field(default_factory=deque)
    queue_bytes: int = 0
    _group: list[PendingAppend] = field(default_factory=list)
    """The present write; it lands also when this copy has ceased to lead meanwhile."""
    _landed: asyncio.Event | None = None
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _producers: ProducerTable = field(default_factory=ProducerTable)
    """The disk's, and what is assigned."""
    _versions: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _unconditional_end: int = 0
    _last_time_us: int = 0
    committed: int = 0

    # ---- in ------------------------------------------------------------------------------

    def submit(self, append: PendingAppend) -> None:
        """Queue an append; its future gets the ack. OverloadedError when the queue is full."""
        if self.queue_bytes + append.held_bytes > limits.SHARD_QUEUE_BYTES_MAX:
            raise OverloadedError(
                f"shard {self.shard} has {self.queue_bytes} bytes waiting, the limit is "
                f"{limits.SHARD_QUEUE_BYTES_MAX} bytes",
                retry_after_ms=20,
            )
        self.queue.append(append)
        self.queue_bytes += append.held_bytes

    def take_queue(self) -> list[PendingAppend]:
        """Everything not yet given an offset, for forwarding (H3)."""
        taken = list(self.queue)
        self.queue.clear()
        self.queue_bytes = 0
        return taken

    def lead(self, epoch: int) -> None:
        """Begin to lead: offsets, producers and times continue from this copy's disk."""
        self.epoch = epoch
        self.reload()

    def enter(self, epoch: int) -> None:
        """What is stored from now on is of this epoch."""
        self.epoch = epoch

    @property
    def is_open(self) -> bool:
        """What is queued is given offsets; else it waits."""
        return self._open

    def set_open(self, is_open: bool, high_watermark: int) -> None:
        """`high_watermark`: what this copy knows to be committed."""
        self._open = is_open
        self.committed = max(self.committed, high_watermark)

    def reload(self) -> None:
        """Forget batches that were assigned but not written; the disk is the truth."""
        self.end = self.log.end()
        self._producers = ProducerTable(self.log.producers())
        self._versions.clear()
        self._unconditional_end = self.end.end
        last = self.log.read_last()
        if last is not None:
            self._last_time_us = last.append_time_us

    # ---- next_write: the group commit takes what waits ----------------------------------------

    def next_write(self, max_bytes: int) -> ReplicaWrite | None:
        if not self._open or not self.queue:
            return None
        now_us = next_stamp(self.wall_us(), self._last_time_us)
        group: list[PendingAppend] = []
        size, offset = 0, self.end.end
        conditional: dict[bytes, int] = {}
        while self.queue and (size == 0 or size < max_bytes):
            append = self.queue[0]
            if append.expected_version is not None and group and not conditional:
                break  # its count needs what is before it on the disk
            if append.expected_version is None and conditional:
                break
            self.queue.popleft()
            self.queue_bytes -= append.held_bytes
            if append.done.done() or self._settle(append, conditional, group, offset):
                continue
            append.offset = offset
            append.timestamp = now_us if append.time_min_us is None else append.time_min_us
            self._remember(append)
            group.append(append)
            offset += append.count
            size += append.write_bytes
        if not group:
            return None
        self._last_time_us = now_us
        batches = self._store(group, now_us)
        self._group = group
        self.end = Position(batches[-1].end, batches[-1].chain_after)
        self._waiting.append(_Waiting(self.end.end, group))
        self.sent = self.on_assigned(batches)
        return ReplicaWrite(self.log.id, batches, self.committed)

    def _settle(
        self,
        append: PendingAppend,
        conditional: dict[bytes, int],
        group: list[PendingAppend],
        end: int,
    ) -> bool:
        """True when the append is answered (or will be) without being stored. `end`: of what is
        assigned, the group included."""
        if append.producer_id:
            last = self._producers.last(append.producer_id)
            entry = self._producers.find(append.producer_id, append.sequence)
            if entry is not None:
                append.duplicate, append.offset = True, entry.offset
                if append.expected_version is not None:
                    append.version = append.expected_version + 1  # stored on this condition
                append.count, append.timestamp = entry.count, self._time_at(entry.offset, group)
                self._ack_later(append, entry.offset + entry.count)
                return True
            if append.sequence != last + 1:
                append.done.set_exception(
                    OutOfSequenceError(
                        f"sequence is {append.sequence}, this producer's next one is {last + 1}"
                    )
                )
                return True
        try:
            admit_stamps(append, self.options, (self.latest_us or self.wall_us)())
        except InvalidArgumentError as e:
            append.done.set_exception(e)
            return True
        if append.expected_version is None:
            return False
        key = only_key(append)
        version = conditional.get(key)
        if version is None:
            version = self._version_of(key, append.version_before)
        if version != append.expected_version:
            kind = VersionAheadError if version < append.expected_version else VersionConflictError
            append.refusal = kind(
                f"expected_version is {append.expected_version}, key {key!r} has {version}"
            )
            self._ack_later(append, end)
            return True
        conditional[key] = version + 1
        append.version = version + 1
        return False

    def _version_of(self, key: bytes, before: int) -> int:
        """How many records the key has up to our end (nothing unwritten is before this group)."""
        cached = self._versions.get(key)
        if cached is not None and cached[1] >= self._unconditional_end:
            return cached[0]
        return before + self.log.count_key(key, self.end.end)

    def _ack_later(self, append: PendingAppend, needed: int) -> None:
        if needed <= self.committed:
            _resolve(append, self.shard)
        else:
            last = self._waiting[-1].needed if self._waiting else 0
            self._waiting.append(_Waiting(max(needed, last), [append]))

    def _time_at(self, offset: int, group: list[PendingAppend]) -> int:
        """The timestamp of a record that we have: in the group that is being made, or on our disk,
        for every truncation follows the last write. A trimmed record has none: our newest."""
        for append in group:
            if append.offset == offset:  # sent twice, and both came at once
                return append.timestamp
        try:
            found = self.log.read(offset, offset + 1, 1)
        except OutOfRangeError:
            return self._last_time_us
        batch = found[0]
        return time_at(batch, offset)

    def _store(self, group: list[PendingAppend], now_us: int) -> list[StoredBatch]:
        """Envelopes for the group: small neighbours merged, offsets dense, chain linked."""
        batches: list[StoredBatch] = []
        at = self.end
        for run in _runs(group):
            payload = run[0].payload if len(run) == 1 and run[0].payload else self._merge(run)
            times = [(a.time_min_us, a.time_max_us) for a in run]
            batch = build(
                base_offset=at.end,
                epoch=self.epoch,
                chain_before=at.chain,
                count=sum(a.count for a in run),
                append_time_us=now_us,
                time_min_us=min(now_us if lo is None else lo for lo, _ in times),
                time_max_us=max(now_us if hi is None else hi for _, hi in times),
                flags=run[0].flags,
                spans=_spans(run),
                payload=payload,
            )
            batches.append(batch)
            at = Position(batch.end, batch.chain_after)
        return batches

    def _merge(self, run: list[PendingAppend]) -> bytes:
        if not any(a.payload for a in run):
            rows = [row for append in run for row in append.rows]
            return encode_payload(rows_to_batch(rows, run[0].flags), self.options.compression.value)
        table = pa.Table.from_batches([a.batch for a in run]).combine_chunks()
        return encode_payload(table.to_batches()[0], self.options.compression.value)

    def _remember(self, append: PendingAppend) -> None:
        if append.producer_id:
            entry = ProducerEntry(append.sequence, append.offset, append.count)
            self._producers.remember(append.producer_id, entry)
            self._producers.dirty.clear()  # the engine stores its own
        end = append.offset + append.count
        if append.version is None:
            self._unconditional_end = end
        else:
            if len(self._versions) >= VERSION_CACHE_KEYS:
                self._versions.pop(next(iter(self._versions)))
            self._versions[only_key(append)] = (append.version, end)

    # ---- outcome ---------------------------------------------------------------------------

    def written(self) -> None:
        self._land()
        self.on_written(self.end)

    @property
    def writing(self) -> bool:
        return bool(self._group)

    async def settled(self) -> None:
        """Return when nothing of ours is being written: only then may others write to the disk."""
        while self._group:
            self._landed = self._landed or asyncio.Event()
            await self._landed.wait()

    def _land(self) -> None:
        self._group = []
        if self._landed is not None:
            self._landed.set()
            self._landed = None

    def failed(self, error: LogstoreError) -> None:
        """None of the group was stored here: its appends get the error, the rest waits on.

        A peer may yet commit what it was sent, as the next primary: that is no refusal.
        """
        if self.sent:
            error = UnavailableError(f"not written here, perhaps by a peer: {error.message}")
        for append in self._group:
            append.refuse(error)
        self._land()
        self.reload()
        self._drop_waiting_above(self.end.end)
        self.on_failed(error)

    def _drop_waiting_above(self, end: int) -> None:
        kept: deque[_Waiting] = deque()
        for waiting in self._waiting:
            if waiting.needed <= end:
                kept.append(waiting)
                continue
            for append in waiting.appends:
                append.refuse(UnavailableError(f"shard {self.shard}: the write failed, send again"))
        self._waiting = kept

    def commit(self, high_watermark: int) -> list[PendingAppend]:
        """Ack everything below the high watermark; returns what was acked."""
        self.committed = max(self.committed, high_watermark)
        acked: list[PendingAppend] = []
        while self._waiting and self._waiting[0].needed <= high_watermark:
            for append in self._waiting.popleft().appends:
                _resolve(append, self.shard)
                if append.refusal is None:
                    acked.append(append)
        return acked

    def stop(self, error: LogstoreError) -> None:
        """This copy does not lead any more: what is undecided gets `error` (retriable)."""
        self._open = False
        for waiting in self._waiting:
            for append in waiting.appends:
                append.refuse(error)
        self._waiting.clear()


def only_key(append: PendingAppend) -> bytes:
    """The key of a conditional append, which has one record."""
    if append.rows:
        return append.rows[0].key
    key: bytes = append.batch.column("key")[0].as_py()
    return key


def _spans(run: list[PendingAppend]) -> list[ProducerSpan]:
    if not any(a.producer_id for a in run):
        return []
    return [ProducerSpan(a.producer_id, a.sequence, a.count) for a in run]


def _runs(group: list[PendingAppend]) -> list[list[PendingAppend]]:
    """Neighbours that become one stored batch: small, and with the same columns."""
    runs: list[list[PendingAppend]] = []
    size = records = 0
    for append in group:
        joins = (
            runs
            and runs[-1][0].flags == append.flags
            and append.weight <= MERGE_ITEM_BYTES_MAX
            and runs[-1][-1].weight <= MERGE_ITEM_BYTES_MAX
            and size + append.weight <= MERGE_BYTES_MAX
            and records + append.count <= limits.BATCH_RECORDS_MAX
        )
        if joins:
            runs[-1].append(append)
            size, records = size + append.weight, records + append.count
        else:
            runs.append([append])
            size, records = append.weight, append.count
    return runs


def _resolve(append: PendingAppend, shard: str) -> None:
    if append.done.done():
        return
    if append.refusal is not None:
        append.done.set_exception(append.refusal)
    else:
        append.done.set_result(
            Ack(shard, append.offset, append.timestamp, append.count, append.version)
        )


def new_future() -> "asyncio.Future[Ack]":
    """A future of the running loop."""
    return asyncio.get_running_loop().create_future()
