"""Reading a copy below its high watermark: by offset, key, key range and time; and tailing.

A read goes step by step: one fetch from the disk, bounded, and answers from it, bounded as sent
(`answers`). The disk works on the following step while the answers of this one go out, so a read
holds two steps whatever was asked. A few records cost a small fetch: it doubles from step to step.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from logstore.base.background import Background
from logstore.base.errors import (
    InvalidArgumentError,
    LogstoreError,
    NotServingError,
    OutOfRangeError,
    UnavailableError,
)
from logstore.base.limits import SCAN_CHUNK_BYTES
from logstore.engine.shard_log import ShardLog
from logstore.node.reads.answers import Query, ReadAnswer, answers_of
from logstore.node.resources.availability import Purpose
from logstore.node.resources.context import NodeContext
from logstore.node.resources.copy import Copy, is_sealed
from logstore.proto.v1 import log_pb2

T = TypeVar("T")

FIRST_FETCH_BYTES = 64 * 1024
"""Records of the first fetch of a read with a limit."""
KEY_FETCH_BYTES_MAX = 4 * 1024 * 1024
"""Stored bytes of one fetch by key: often only a small part of these batches is the key's."""
STEP_BYTES = 2 * 1024 * 1024
"""Answers of one step, about; the next one goes on in the fetched batches."""
TAIL_IDLE_S = 1.0
"""A tail looks at least this often whether its replica still serves."""


class Steps:
    """One read of one copy, step by step. Used by one thread at a time."""

    def __init__(self, log: ShardLog, shard: str, query: Query, at: int) -> None:
        self._log, self._shard, self._query = log, shard, query
        self._at = at
        """Where the next fetch starts."""
        self.left = query.limit or None
        """Records still wanted; None: all."""
        self.stop = at
        """Where the newest fetch was to end."""
        self._open: Iterator[ReadAnswer] | None = None
        self._failed: LogstoreError | None = None
        """Raised by the next step: records before the failure are answered first."""
        self._fetch_bytes_max = KEY_FETCH_BYTES_MAX if query.key is not None else SCAN_CHUNK_BYTES
        self._fetch_bytes = self._fetch_bytes_max if self.left is None else FIRST_FETCH_BYTES

    def more(self, stop: int) -> bool:
        """Whether a step towards `stop` may bring something."""
        if self._failed is not None:
            return True
        return self.left != 0 and (self._open is not None or self._at < stop)

    def step(self, stop: int, mark: int) -> list[ReadAnswer]:
        """The next answers, empty if the fetched batches have none; on a reader thread."""
        if self._failed is not None:
            raise self._failed
        if self._open is None:
            self._open = self._fetch(stop, mark)
        found: list[ReadAnswer] = []
        size = 0
        try:
            for answer in self._open:
                found.append(answer)
                size += answer.bytes
                if self.left is not None:
                    self.left -= answer.message.count
                if size >= STEP_BYTES:
                    return found
        except LogstoreError as e:
            self._failed = e
            if not found:
                raise
        self._open = None
        return found

    def _fetch(self, stop: int, mark: int) -> Iterator[ReadAnswer]:
        at, bytes_max, key = self._at, self._fetch_bytes, self._query.key
        self._fetch_bytes = min(2 * bytes_max, self._fetch_bytes_max)
        if key is None:
            batches = self._log.read(at, stop, bytes_max)
        else:
            batches = self._log.read_key(key, at, stop, bytes_max)
        self._at = batches[-1].end if batches else stop
        if key is not None and sum(len(b.data) for b in batches) < bytes_max:
            self._at = stop  # there is no more of the key
        self.stop = stop
        return answers_of(self._shard, batches, self._query, at, stop, self.left, mark)


async def wait_for_settling(copy: Copy, node: NodeContext, wait_s: float) -> None:
    """After a start or a change of the primary: wait a bounded time until the copy serves (P4)."""
    deadline_s = node.now_s() + wait_s
    while copy.availability(Purpose.WAIT_TO_SERVE).allowed:
        left_s = deadline_s - node.now_s()
        if left_s <= 0:
            return
        await copy.wait_change(left_s)


async def wait_for_mark(copy: Copy, node: NodeContext, mark: int, wait_s: float) -> None:
    """P8: wait a bounded time until the high watermark reaches `mark`, else NotServingError."""
    deadline_s = node.now_s() + wait_s
    while copy.high_watermark < mark:
        left_s = deadline_s - node.now_s()
        if left_s <= 0:
            raise NotServingError(
                f"shard {copy.shard} is at {copy.high_watermark} on {node.instance}, "
                f"the caller has seen {mark}"
            )
        await copy.wait_mark(left_s)


async def read(
    copy: Copy, node: NodeContext, query: Query, tail: bool = False
) -> AsyncIterator[ReadAnswer]:
    """Answers in offset order up to the high watermark at the call (or `stop`); a tail goes on.

    Errors: OutOfRangeError for a start past the end or below the trim offset, NotServingError
    when the replica stops serving in between (the caller continues elsewhere at next_offset).
    """
    mark = copy.high_watermark
    at, trimmed = _begin(copy, query, mark)
    log, told = copy.log, False
    if trimmed:
        yield _begins_at(copy, at, mark)
    if query.since_us is not None:
        at = max(at, log.offset_at_time(query.since_us))
    steps = Steps(log, copy.shard, query, at)
    reading = Background("a read")
    ahead: asyncio.Task[list[ReadAnswer]] | None = None
    try:
        while ahead is not None or steps.left != 0:
            mark = copy.high_watermark if tail else mark
            stop = mark if query.stop is None or tail else min(mark, query.stop)
            if ahead is not None or steps.more(stop):
                copy.check(Purpose.READ)
                found = await (ahead or _in_thread(node, steps.step, stop, mark))
                ahead = None
                ended = _ends(copy, steps.stop)
                if steps.more(stop):  # the disk works while the answers go out
                    ahead = reading.answer(_in_thread(node, steps.step, stop, mark))
                for answer in found:
                    answer.message.sealed, told = ended, True
                    yield answer
            elif not tail:
                if _ends(copy, stop) and not told:
                    yield _end_of(copy, max(at, stop), mark)
                return
            else:
                copy.check(Purpose.READ)
                if _ends(copy, stop):
                    yield _end_of(copy, max(at, stop), mark)
                    return
                await copy.wait_mark(TAIL_IDLE_S)
    finally:
        await reading.stop()


def _begin(copy: Copy, query: Query, mark: int) -> tuple[int, bool]:
    """Where the read begins, and whether records below that, which it did not exclude, are gone."""
    base = copy.log.base().end
    start = base if query.start is None else query.start
    if start > mark:
        raise OutOfRangeError(f"start_offset is {start}, shard {copy.shard} ends at {mark}")
    if start < base:
        raise OutOfRangeError(
            f"start_offset is {start}, shard {copy.shard} was trimmed below {base}; read from "
            f"{base} on, or without an offset"
        )
    if query.stop is not None and query.stop < start:
        raise InvalidArgumentError(f"stop_offset is {query.stop}, below start {start}")
    return start, query.start is None and base > 0


def _begins_at(copy: Copy, base: int, mark: int) -> ReadAnswer:
    """Sent before the first record, also when no record qualifies."""
    message = log_pb2.ReadResponse(
        shard=copy.shard,
        base_offset=base,
        high_watermark=mark,
        next_offset=base,
        log_start=base,
    )
    return ReadAnswer(message, 0)


def _ends(copy: Copy, offset: int) -> bool:
    """Whether the shard ends there for good."""
    return is_sealed(copy.record) and offset >= (copy.record.sealed_end or 0)


def _end_of(copy: Copy, at: int, mark: int) -> ReadAnswer:
    """A sealed shard's end is sent also when no record qualified (S4)."""
    message = log_pb2.ReadResponse(
        shard=copy.shard, base_offset=at, high_watermark=mark, next_offset=at, sealed=True
    )
    return ReadAnswer(message, 0)


async def _in_thread(node: NodeContext, work: Callable[..., T], *arguments: object) -> T:
    """Run on a reader thread; UnavailableError once the instance stops."""
    try:
        done = asyncio.get_running_loop().run_in_executor(node.readers, work, *arguments)
    except RuntimeError:  # the pool was shut down
        raise UnavailableError(f"instance {node.instance} stops") from None
    return await done
