"""The keys of one balanced log: which token each has, and how a new key gets one.

The source of truth is the mapping log, a log like any other: a record is key -> token, and **a
key's first record counts**. So the order of its shard decides between two writers of the same key.
A writer answers only after it has read the records before its own: if they begin where it had read
to, there were none; else it reads on to their end (rule 1). A successor shard is read after all its
predecessors, to their sealed ends (rule 2, S4). The memory is a cache.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from logstore.base.background import Background
from logstore.base.errors import (
    AppendManyError,
    LogstoreError,
    UnavailableError,
    UnknownLogError,
)
from logstore.base.types import Ack
from logstore.client.client import Log
from sharder.key_table import KeyTable, Numbers, hashes_of
from sharder.keys import TOKEN_BYTES
from sharder.placement import Placement, Preference, token_of
from sharder.shard_map import Shard

PLACED_AT_ONCE_MAX = 65_536
"""Keys whose records are appended to the mapping log by one call."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Ask:
    """Keys to find or to place. `place=False`: unknown keys stay so."""

    keys: Sequence[bytes]
    sizes: Sequence[float] | None = None
    schema: str = ""
    place: bool = True
    wish: Preference | None = None
    done: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Book:
    """Finds and places the keys of one log. One append at a time; keys that are requested meanwhile
    are placed together by the next append."""

    def __init__(self, mapping: Log, placement: Placement) -> None:
        self.table = KeyTable()
        self.placement = placement
        self._mapping = mapping
        self._read_to: dict[str, int] = {}
        """Shard of the mapping log -> records of it that are in the table."""
        self.ended = False
        """The mapping log was deleted: the book is of no more use."""
        self._ready = False
        self._asked: list[Ask] = []
        self._tasks, self._working = Background(f"keys of {mapping.name}"), False

    async def tokens(self, ask: Ask) -> tuple[Numbers, NDArray[np.bool_]]:
        """Tokens of the keys and whether they have one, [n] each.

        Errors: UnavailableError when the mapping log cannot be written or read; ask again.
        """
        hashes = hashes_of(ask.keys)
        if self._ready:
            tokens, known = self.table.find(hashes)
            if known.all():
                return tokens, known
        self._asked.append(ask)
        if not self._working:
            self._working = True
            self._tasks.start(self._work())
        await ask.done
        return self.table.find(hashes)

    async def close(self) -> None:
        await self._tasks.stop()
        _fail(self._asked, UnavailableError("placement stops"))

    async def _work(self) -> None:
        while self._asked:
            asks, self._asked = self._asked, []
            try:
                await self._serve(asks)
            except LogstoreError as e:
                self.ended = self.ended or isinstance(e, UnknownLogError)
                told = UnavailableError(f"the mapping log {self._mapping.name}: {e.message}")
                _fail(asks, told)
            except Exception:
                _log.exception("keys were not placed", log=self._mapping.name)
                _fail(asks, UnavailableError("the keys were not placed, the log says why"))
            finally:
                _fail(asks, UnavailableError("placement stops"))  # those without an answer
        self._working = False

    async def _serve(self, asks: list[Ask]) -> None:
        if not self._ready or not all(ask.place for ask in asks):
            await self._read_on()  # another writer may have placed keys that we do not know
            self._ready = True
        keys: list[bytes] = []
        drawn: list[int] = []
        for ask in asks:
            if ask.place:
                new, tokens = self._draw(ask)
                keys += new
                drawn += tokens
        for at in range(0, len(keys), PLACED_AT_ONCE_MAX):
            part = slice(at, at + PLACED_AT_ONCE_MAX)
            await self._remember(keys[part], drawn[part])
        for ask in asks:
            if not ask.done.done():
                ask.done.set_result(None)

    def _draw(self, ask: Ask) -> tuple[list[bytes], list[int]]:
        """The requested keys without a token, once each, and the tokens they would get."""
        hashes = hashes_of(ask.keys)
        unknown = np.flatnonzero(~self.table.find(hashes)[1])
        _, first = np.unique(hashes[unknown], return_index=True)
        rows = unknown[np.sort(first)].tolist()
        keys = [ask.keys[r] for r in rows]
        sizes = [ask.sizes[r] for r in rows] if ask.sizes else None
        slots = self.placement.draw(keys, sizes, ask.schema, ask.wish).tolist()
        own = hashes[rows].tolist()
        return keys, [token_of(self.placement.slots[s], h) for s, h in zip(slots, own, strict=True)]

    async def _remember(self, keys: list[bytes], tokens: list[int]) -> None:
        """Append the mappings; they are in the table when this returns, unless others' came first.

        Errors: those of the append. Another request finds what was stored nevertheless.
        """
        values = pa.array([t.to_bytes(TOKEN_BYTES, "big") for t in tokens], pa.binary())
        try:
            acks = await self._mapping.append_many(pa.array(keys, pa.binary()), values)
        except AppendManyError:
            self._ready = False  # some are stored: the next append reads on first
            raise
        if self._alone(acks):
            self.table.add(hashes_of(keys), np.array(tokens, dtype=np.uint64))
            for ack in acks:
                self._read_to[ack.shard] += ack.count
        else:
            await self._read_on()

    def _alone(self, acks: Sequence[Ack]) -> bool:
        """Rule 1: did our records begin where we had read to, in every shard?"""
        at = dict(self._read_to)
        for ack in sorted(acks, key=lambda a: (a.shard, a.offset)):
            if at.get(ack.shard) != ack.offset:
                return False
            at[ack.shard] += ack.count
        return True

    async def _read_on(self) -> None:
        """Take all records that are in the mapping log by now, in the order that counts."""
        shards = (await self._mapping.shard_map()).shards
        for shard in _ancestors_first(shards):
            start = self._read_to.get(shard.id, 0)
            if shard.sealed_end is not None and start >= shard.sealed_end:
                continue
            async for batch in self._mapping.scan(shard=shard.id, offset=start).batches():
                values = batch.column("value").to_pylist()
                found = np.array([int.from_bytes(v, "big") for v in values], dtype=np.uint64)
                self.table.add(hashes_of(batch.column("key").to_pylist()), found)
                self._read_to[shard.id] = batch.column("offset")[-1].as_py() + 1
            self._read_to.setdefault(shard.id, start)


def _fail(asks: Sequence[Ask], error: LogstoreError) -> None:
    for ask in asks:
        if not ask.done.done():
            ask.done.set_exception(error)


def _ancestors_first(shards: Sequence[Shard]) -> list[Shard]:
    """Rule 2: a shard comes after all its predecessors."""
    left = {s.id: s for s in shards}
    ordered: list[Shard] = []
    while left:
        free = [s for s in left.values() if not any(p in left for p in s.predecessors)]
        ordered += sorted(free, key=lambda s: s.id)
        for shard in free:
            del left[shard.id]
    return ordered
