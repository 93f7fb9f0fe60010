"""Reads over many shards: resumable per shard, fanned out with bounded concurrency, merged.

A shard's read goes on from `next_offset` after any failure that allows it, on whichever replica the
newest route names, up to the high watermark that the first answer showed: no gap and no duplicate
(I5).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import pyarrow as pa

from logstore.base.backoff import Backoff
from logstore.base.env import Env
from logstore.base.errors import (
    InvalidArgumentError,
    LogstoreError,
    OutOfRangeError,
    OverloadedError,
    UnavailableError,
    UnknownShardError,
)
from logstore.base.types import Record
from logstore.client.directory import Directory, another, replaced
from logstore.client.funnel import Funnel
from logstore.client.hedging import HedgedCall
from logstore.client.ordered import groups_of, in_key_order
from logstore.client.pages import Page, page_of, records_of
from logstore.client.placing import Placer
from logstore.client.read_spec import ReadPlace, ReadSpec
from logstore.client.replicas import Kind, Replicas
from logstore.client.results import Results
from logstore.client.router import Router
from logstore.client.sender import BACKOFF_FIRST_S, BACKOFF_MAX_S
from logstore.meta.records import mapping_log
from logstore.proto.status import from_rpc
from logstore.proto.v1 import log_pb2, log_pb2_grpc
from sharder.keys import KeyRange
from sharder.shard_map import Shard

READ_CONCURRENCY = 8
"""Shards read at the same time by one call."""

PAGES_QUEUED_MAX = 32
"""Pages (about 1 MiB each) that wait for the consumer of one call; beyond it the shards wait."""

REPLACED_WAIT_S = 0.5
"""How long it may take to recognise that a shard that became shorter is another log's."""

T = TypeVar("T")
P = TypeVar("P")


class Reader:
    """Reads of one client."""

    def __init__(
        self,
        directory: Directory,
        env: Env,
        session: dict[str, int],
        *,
        timeout_s: float,
        placer: Placer | None = None,
    ) -> None:
        self._placer = placer or Placer(directory, timeout_s)
        self._placer.lookup = self._token
        self._directory = directory
        self._env = env
        self._replicas = Replicas(env.rng)
        self._session = session
        self._timeout_s = timeout_s
        self.trimmed: dict[str, int] = {}
        """Shard -> first offset that is kept, where a read from the beginning met a trimmed one."""

    def lists(
        self, spec: ReadSpec, *, tail: bool = False, idle_timeout_s: float | None = None
    ) -> Results[list[Record]]:
        """The records in the lists that they come in; those of a tail also after the call."""
        if spec.order == "key":
            return self._results(spec, lambda: self._by_key(spec), records_of)
        return self._results(
            spec, lambda: self.pages(spec, tail=tail), lambda page: page.records(), idle_timeout_s
        )

    def batches(self, spec: ReadSpec) -> Results[pa.RecordBatch]:
        """The records as Arrow batches in SCAN_SCHEMA, in the order that the spec asks for."""
        if spec.order == "key":
            return self._results(spec, lambda: self._by_key(spec), lambda batch: batch)
        return self._results(spec, lambda: self.pages(spec), lambda page: page.arrow())

    def _results(
        self,
        spec: ReadSpec,
        pieces: Callable[[], AsyncGenerator[P, None]],
        shape: Callable[[P], T],
        idle_timeout_s: float | None = None,
    ) -> Results[T]:
        async def produce(funnel: Funnel[T]) -> None:
            with self._held(spec.log, funnel):
                async with contextlib.aclosing(pieces()) as found:
                    async for piece in found:
                        await funnel.put(shape(piece))

        return Results(self._directory.lifetime, produce, idle_timeout_s)

    @contextlib.contextmanager
    def _held(self, log: str, funnel: Funnel[Any]) -> Iterator[None]:
        """The end of the log is the end of the read."""
        self._directory.hold(log, funnel.fail)
        try:
            yield
        finally:
            self._directory.let_go(log, funnel.fail)

    async def _router(self, spec: ReadSpec) -> Router:
        """The newest known map of this log; UnknownLogError if there is another."""
        router = await self._directory.router(spec.log)
        if another(spec.created_us, router.created_us):
            raise replaced(spec.log, router.created_us)
        return router

    async def pages(self, spec: ReadSpec, *, tail: bool = False) -> AsyncGenerator[Page, None]:
        """The records as they come: in offset order per shard, so in order per key."""
        placed = await self._placed(spec, tail)
        if placed is None:
            return
        spec = placed
        shards = await self._shards(spec)
        if tail and spec.shard is None and spec.offset is None and not spec.from_base:
            shards = [s for s in shards if s.is_open]  # no record is appended to the others
        left = spec.limit
        async with contextlib.aclosing(self._fan_out(spec, shards, tail)) as found:
            async for page in found:
                if left is not None and page.count >= left:
                    yield page.head(left)
                    return
                if left is not None:
                    left -= page.count
                yield page

    async def _by_key(self, spec: ReadSpec) -> AsyncGenerator[pa.RecordBatch, None]:
        """Key, then position in history, then offset: shard groups in key order, each sorted."""
        placed = await self._placed(spec, False)
        if placed is None:
            return
        unlimited = replace(placed, limit=None)
        shards = await self._shards(placed)
        found = in_key_order(
            self._directory.lifetime,
            groups_of(shards, await self._scattered(placed)),
            lambda group: self._fan_out(unlimited, group, False),
            placed.limit,
        )
        async with contextlib.aclosing(found) as batches:
            async for batch in batches:
                yield batch

    async def _scattered(self, spec: ReadSpec) -> bool:
        """Whether keys next to each other are in any shard."""
        router = await self._router(spec)
        return router.hashed or router.balanced

    async def _placed(self, spec: ReadSpec, tail: bool) -> ReadSpec | None:
        """The spec with routing keys; None: a key of a balanced log that was never written."""
        router = await self._router(spec)
        if not router.balanced or spec.written is not None:
            return spec
        if spec.key is None:
            return replace(spec, start=b"", end=None, written=KeyRange(spec.start, spec.end))
        virtual = await self._placer.find(spec.log, spec.key)
        if virtual is not None:
            return replace(spec, key=virtual, written=KeyRange())
        if not tail:
            return None
        return replace(spec, key=None, written=KeyRange(spec.key, spec.key + b"\0"))

    async def _token(self, log: str, key: bytes) -> bytes | None:
        """The token in the mapping log of a balanced log: the key's first record counts."""
        spec = ReadSpec(mapping_log(log), key=key, limit=1)
        async with contextlib.aclosing(self.pages(spec)) as pages:
            async for page in pages:
                return cast("bytes", page.batch.column("value")[0].as_py())
        return None

    async def _shards(self, spec: ReadSpec) -> list[Shard]:
        router = await self._router(spec)
        if spec.shard is None:
            return router.shards_to_read(spec.start, spec.end, spec.key)
        found = router.map.get(spec.shard)
        if found is None:
            router = await self._directory.refresh(spec.log)
            found = router.map.get(spec.shard)
        if found is None:
            raise UnknownShardError(f"log {spec.log!r} has no shard {spec.shard!r}")
        if spec.written is None and found not in router.shards_to_read(
            spec.start, spec.end, spec.key
        ):
            wanted = f"key {spec.key!r}" if spec.key is not None else f"start {spec.start!r} or end"
            raise InvalidArgumentError(
                f"{wanted} and shard {spec.shard} exclude each other: the shard holds {found.range}"
            )
        return [found]

    async def _fan_out(
        self, spec: ReadSpec, shards: Sequence[Shard], tail: bool
    ) -> AsyncGenerator[Page, None]:
        """Read shards side by side; a shard starts after its predecessors were read (S4)."""
        sealed: set[str] = set()
        if len(shards) == 1 and (not tail or spec.shard is not None):
            async with contextlib.aclosing(self._shard(spec, shards[0], tail, sealed)) as pages:
                async for page in pages:
                    yield page
            if tail or not sealed:
                return
            shards = await self._following(spec, shards[0].id, (), sealed)
        funnel: Funnel[Page] = Funnel(self._directory.lifetime, PAGES_QUEUED_MAX)
        slots = asyncio.Semaphore(READ_CONCURRENCY)
        finished: dict[str, asyncio.Event] = {}

        def begin(more: Sequence[Shard], offset: int | None) -> None:
            for shard in more:
                finished[shard.id] = asyncio.Event()
            place = spec if offset is None else replace(spec, offset=None, from_base=True)
            for shard in more:
                funnel.add(read(shard, place))

        async def read(shard: Shard, place: ReadSpec) -> None:
            for parent in shard.predecessors:
                if parent in finished:
                    await finished[parent].wait()
            held = contextlib.nullcontext() if tail else slots
            pages = self._shard(place, shard, tail, sealed)
            async with held, contextlib.aclosing(pages):
                async for page in pages:
                    await funnel.put(page)
            finished[shard.id].set()
            if shard.id in sealed:  # go on with what follows it (S4)
                begin(await self._following(spec, shard.id, finished, sealed), 0)

        begin(shards, None)
        try:
            while (piece := await funnel.take_or_none()) is not None:
                yield piece
        finally:
            await funnel.close()

    async def _following(
        self, spec: ReadSpec, shard: str, begun: Collection[str], sealed: Collection[str]
    ) -> list[Shard]:
        """The successors of a sealed shard that the read wants and may begin, as of the newest map.

        `begun` are the shards that the read has, `sealed` those of them that were read to their
        seals. A successor with another parent that is still read, or is yet to be reached, waits
        for it: it follows when the last of its parents was read to its seal.
        """
        router = await self._directory.router(spec.log)
        found = router.map.get(shard)
        named = [router.map.get(s) for s in found.successors] if found is not None else []
        if all(s is None or s.id in begun for s in named):
            return []
        wanted = {s.id for s in router.shards_to_read(spec.start, spec.end, spec.key)}

        def to_come(parent: str) -> bool:
            if parent in begun:
                return parent not in sealed
            found = router.map.get(parent) if parent in wanted else None
            return found is not None and any(reached(p) for p in found.predecessors)

        def reached(ancestor: str) -> bool:
            return ancestor in begun or to_come(ancestor)

        return [
            s
            for s in named
            if s is not None
            and s.id in wanted
            and s.id not in begun
            and not any(to_come(p) for p in s.predecessors)
        ]

    async def _shard(
        self, spec: ReadSpec, shard: Shard, tail: bool, sealed: set[str]
    ) -> AsyncGenerator[Page, None]:
        """One shard from the spec's offset on, over as many calls as it takes.

        Its id is added to `sealed` when it was read to a seal: its successors go on.
        """
        start = spec.offset
        if tail and start is None and not spec.from_base:
            start = await self._end(spec, shard)
        place, backoff = ReadPlace(spec, start), self._backoff()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while True:
            try:
                call = self._call(place, shard, tail, backoff.tries)
                async with contextlib.aclosing(call) as pages:
                    async for page in pages:
                        backoff.reset()
                        deadline = loop.time() + self._timeout_s
                        if place.log_start is not None:
                            self.trimmed[shard.id] = place.log_start
                        if page.count:
                            yield page
                if not tail:
                    if place.sealed and not place.finished and spec.shard is None:
                        await self._know_seal(shard)
                        sealed.add(shard.id)
                    return
                if await self._at_seal(shard, place):
                    sealed.add(shard.id)
                    return
                error: LogstoreError = UnavailableError(f"the tail of shard {shard.id} ended")
            except LogstoreError as e:
                error = e
                place.refused |= isinstance(e, OverloadedError)
            if not (error.retriable or error.refresh_route):
                if isinstance(error, OutOfRangeError):
                    shown = place.resumed or spec.offset is None
                    await self._is_the_same(shard, REPLACED_WAIT_S if shown else 0)
                raise error
            if loop.time() >= deadline:
                raise type(error)(f"read of shard {shard.id} gave up: {error.message}")
            shard = await self._elsewhere(shard, error, backoff)

    async def _at_seal(self, shard: Shard, place: ReadPlace) -> bool:
        """A tail ended: was it at the metadata's end of a sealed shard (S4)? The map may come
        after it."""
        router = self._directory.cached(shard.log)
        newest = router.map.get(shard.id) if router is not None else None
        if newest is None or newest.sealed_end is None:
            router = await self._directory.refresh(shard.log)
            newest = router.map.get(shard.id)
        end = newest.sealed_end if newest is not None else None
        return end is not None and place.offset >= end

    async def _is_the_same(self, shard: Shard, wait_s: float) -> None:
        """A shard ends below the position of a read. If it ended higher before, another log has its
        name now, as the map says or is about to say: that ends this read (`Directory.hold`)."""
        with contextlib.suppress(UnavailableError):
            await self._directory.refresh(shard.log)
        if wait_s:
            await self._directory.changed(shard.log, wait_s)

    async def _know_seal(self, shard: Shard) -> None:
        """A shard ended that was open in our map: ask until a map names its successors.

        The map may have come from a party that is cut off from the metadata.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        backoff, tries = Backoff(BACKOFF_MAX_S, BACKOFF_MAX_S, self._env.rng.random), 0
        while True:
            router = self._directory.cached(shard.log)
            newest = router.map.get(shard.id) if router is not None else None
            if router is not None and (newest is None or newest.sealed_end is not None):
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise UnavailableError(
                    f"shard {shard.id} is sealed, and no map named its successors in"
                    f" {self._timeout_s:g} s"
                )
            self._directory.ask_another()
            with contextlib.suppress(UnavailableError):
                await self._directory.refresh(shard.log)
            tries += 1
            if tries > len(self._directory.addresses):
                await asyncio.sleep(backoff.next_s())

    async def _end(self, spec: ReadSpec, shard: Shard) -> int | None:
        """The shard's high watermark, which any answer carries; None: it holds no record."""
        place = ReadPlace(ReadSpec(spec.log, limit=1, created_us=spec.created_us), None)
        backoff = self._backoff()
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            try:
                async with contextlib.aclosing(self._call(place, shard, False, 1, False)) as pages:
                    async for _ in pages:
                        return place.stop
                return None
            except LogstoreError as e:
                place.refused |= isinstance(e, OverloadedError)
                late = asyncio.get_running_loop().time() >= deadline
                if late or not (e.retriable or e.refresh_route):
                    raise
                shard = await self._elsewhere(shard, e, backoff)

    def _backoff(self) -> Backoff:
        return Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, self._env.rng.random)

    async def _elsewhere(self, shard: Shard, error: LogstoreError, backoff: Backoff) -> Shard:
        """Wait and refresh as the error asks; the shard's newest route."""
        if error.refresh_route:
            with contextlib.suppress(UnavailableError):
                await self._directory.refresh(shard.log)
        router = self._directory.cached(shard.log)
        newest = router.map.get(shard.id) if router is not None else None
        if newest is None:
            raise UnknownShardError(f"log {shard.log!r} has no shard {shard.id!r} any more")
        if newest is shard or backoff.tries:
            await asyncio.sleep(max(backoff.next_s(), error.retry_after_ms / 1000))
        else:
            backoff.failed()
        return newest

    async def _call(
        self, place: ReadPlace, shard: Shard, tail: bool, attempt: int, hedged: bool = True
    ) -> AsyncGenerator[Page, None]:
        """One call; a replica that could not serve sends the next attempt to the primary (P8).

        `hedged`: another replica may answer in place of a slow one. A tail is never hedged: that
        nothing comes says nothing.
        """
        loop = asyncio.get_running_loop()
        instance = self._replicas.choose(shard, loop.time(), primary=attempt > 0)
        if instance not in shard.addresses:
            raise UnavailableError(f"instance {instance} of shard {shard.id} has no known address")

        def begin(instance: str) -> Any:
            channel = self._directory.channel(shard.addresses[instance])
            stub = cast("Any", log_pb2_grpc.LogServiceStub(channel))
            request = place.request(shard, self._session.get(shard.id, 0), self._directory.caller)
            return stub.Tail(log_pb2.TailRequest(read=request)) if tail else stub.Read(request)

        hedged = hedged and not tail
        call = self._hedged(place, shard, instance, begin) if hedged else begin(instance)
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                page = page_of(response)
                place.advance(page, response.high_watermark, tail)
                place.sealed = place.sealed or response.sealed
                if response.HasField("log_start"):
                    place.log_start = response.log_start
                yield page if place.written is None else page.as_written(place.written)
                if place.finished:
                    return
        except grpc.aio.AioRpcError as e:
            raise from_rpc(e) from None
        finally:
            call.cancel()

    def _hedged(
        self, place: ReadPlace, shard: Shard, instance: str, begin: Callable[[str], Any]
    ) -> HedgedCall:
        kind: Kind = "key" if place.by_key else "scan"
        return HedgedCall(self._replicas, self._directory.lifetime, shard, kind, instance, begin)
