"""Reads in the order of keys: groups of shards in their order, those that follow read ahead."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import LimitExceededError
from logstore.client.funnel import Funnel
from logstore.client.lifetime import Lifetime
from logstore.client.pages import SCAN_SCHEMA, Page
from sharder.shard_map import Shard

ORDERED_READ_BYTES_MAX = 256 * 1024 * 1024
"""Bytes that a read with order="key" may hold to sort one group of shards."""

GROUPS_READ_MAX = 4
"""Groups that are read at the same time: with more the first one comes later, and where client and
instances share two cores the whole does too."""

AHEAD_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of all groups of a read; from then on only the one whose turn it is goes on."""

Group = Sequence[Shard]
Read = Callable[[Group], AsyncGenerator[Page, None]]


def groups_of(shards: Sequence[Shard], scattered: bool) -> list[list[Shard]]:
    """The shards in groups whose key ranges follow each other, in key order.

    A shard is with its parents and successors, whose keys are its own; those of a log whose keys
    are `scattered` (hash, balanced) are one group. In a group they keep the order given.
    """
    if scattered:
        return [list(shards)]
    group = {shard.id: {shard.id} for shard in shards}
    for shard in shards:
        for other in (*shard.predecessors, *shard.successors):
            if other in group and group[other] is not group[shard.id]:
                joined = group[other] | group[shard.id]
                group.update(dict.fromkeys(joined, joined))
    kept: dict[int, list[Shard]] = {}
    for shard in shards:
        kept.setdefault(id(group[shard.id]), []).append(shard)
    return sorted(kept.values(), key=lambda family: min(shard.range.start for shard in family))


class _Room:
    """The bytes that all groups of one read hold."""

    def __init__(self) -> None:
        self._held = 0
        self._turn = 0
        self._changed = asyncio.Event()

    async def take(self, place: int, size: int) -> None:
        """For the group at `place`; waits unless it is its turn or there is room."""
        while place > self._turn and self._held + size > AHEAD_BYTES_MAX:
            self._changed.clear()
            await self._changed.wait()
        self._held += size

    def next(self, size: int) -> None:
        """The group whose turn it was is done with its bytes."""
        self._held -= size
        self._turn += 1
        self._changed.set()


async def in_key_order(
    lifetime: Lifetime, groups: Sequence[Group], read: Read, limit: int | None
) -> AsyncGenerator[pa.RecordBatch, None]:
    """Key, then position in history, then offset: the groups in their order, each sorted.

    With a limit no more groups are read ahead than the last ones' sizes suggest.
    """
    room, left, rows_seen = _Room(), limit, 0
    begun: deque[Funnel[tuple[list[pa.RecordBatch], int]]] = deque()

    async def produce(place: int, funnel: Funnel[tuple[list[pa.RecordBatch], int]]) -> None:
        await funnel.put(await _sorted_group(groups[place], read, place, room))

    def wanted(done: int) -> int:
        if left is None:
            return GROUPS_READ_MAX
        return min(GROUPS_READ_MAX, math.ceil(left * done / rows_seen)) if rows_seen else 1

    next_place = 0
    try:
        for done in range(len(groups)):
            while next_place < min(len(groups), done + wanted(done)):
                funnel: Funnel[tuple[list[pa.RecordBatch], int]] = Funnel(lifetime, 1)
                begun.append(funnel)
                funnel.add(produce(next_place, funnel))
                next_place += 1
            batches, size = await begun[0].take()
            await begun.popleft().close()
            for batch in batches:
                rows_seen += batch.num_rows
                if left is not None and batch.num_rows >= left:
                    yield batch.slice(0, left)
                    return
                if left is not None:
                    left -= batch.num_rows
                yield batch
            room.next(size)
    finally:
        for funnel in begun:
            await funnel.close()


async def _sorted_group(
    group: Group, read: Read, place: int, room: _Room
) -> tuple[list[pa.RecordBatch], int]:
    """Its records sorted, and the bytes that it holds. LimitExceededError."""
    held: list[tuple[int, pa.RecordBatch]] = []
    size = 0
    rank = {shard.id: depth for depth, shard in enumerate(group)}
    async with contextlib.aclosing(read(group)) as pages:
        async for page in pages:
            size += page.batch.nbytes
            if size > ORDERED_READ_BYTES_MAX:
                raise LimitExceededError.of(
                    'read with order="key"', size, ORDERED_READ_BYTES_MAX, "bytes"
                )
            await room.take(place, page.batch.nbytes)
            depth = rank.setdefault(page.shard, len(rank))  # not known: a successor
            held.append((depth, page.arrow()))
    return _sorted(held), size


def _sorted(held: list[tuple[int, pa.RecordBatch]]) -> list[pa.RecordBatch]:
    """Batches of a group, with their shards' places in history, as one run sorted by key, place
    and offset.
    """
    if not held:
        return []
    table = pa.Table.from_batches([batch for _, batch in held], SCAN_SCHEMA)
    places = np.concatenate([np.full(batch.num_rows, rank, np.int32) for rank, batch in held])
    order = pc.sort_indices(
        table.append_column("place", pa.array(places)),
        sort_keys=[("key", "ascending"), ("place", "ascending"), ("offset", "ascending")],
    )
    return list(table.take(order).combine_chunks().to_batches(max_chunksize=16_384))
