"""The way to each address, the coordinator's catalog, and the cached shard map of each log.

Routes are requested from the party that answered last, then from the given addresses, then from any
instance in a map; so clients go on while the coordinator is down. Each log in use is watched by a
long poll, so that a move is known before it is run into; an error that says "refresh" asks at once.

A log is not its name: one that is deleted and made again under its name is another log,
distinguished by its time of creation. Each user of a log registers (`hold`) and is notified when
the log ends: deleted, replaced, or its watch failed with a foreign error.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.aio
import msgspec

from logstore.base.env import Env
from logstore.base.errors import (
    FencedError,
    LogstoreError,
    UnavailableError,
    UnknownLogError,
)
from logstore.client.lifetime import Lifetime, Tell, as_ours
from logstore.client.router import Router
from logstore.meta.records import LogOptions
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc
from logstore.proto.status import from_rpc
from logstore.proto.transport import Transport
from logstore.proto.v1 import common_pb2, log_pb2, log_pb2_grpc
from sharder.keys import KeyRange, Partitioner
from sharder.shard_map import Shard, ShardMap, ShardMapError, ShardStatus

ROUTES_TIMEOUT_S = 3.0
"""How long one party may take to return a map, its own wait of up to 1 s for a newer one
included."""

SECOND_OPINION_S = 0.3
"""How long the others may take to contradict a party that says that a log is gone."""

SUCCESSOR_WAIT_S = 0.2
"""A log that is gone may be about to be made again: it is looked up once more after this time, to
name the new one. With both times doubled its users still hear of its end within a second."""

WATCH_PAUSE_S = 0.5
"""Pause of a watch after an answer that brought nothing new sooner than it should have."""

FENCED_WAITS_S = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Pauses before a coordinator's service is asked again while its leadership changes hands."""

UNREACHED_RETRIES = 3
NOT_CONNECTED = "failed to connect"
"""gRPC's text for a call that it never sent."""


def map_of(routes: common_pb2.LogRoutes) -> ShardMap:
    """The message as a checked shard map (a map that breaks I1 raises)."""
    return ShardMap(
        log=routes.log,
        version=routes.map_version,
        partitioner=Partitioner(routes.partitioner),
        shards=tuple(_shard(routes.log, shard) for shard in routes.shards),
    )


def router_of(routes: common_pb2.LogRoutes) -> Router:
    """A router over the message's map, with the log's compression."""
    options = msgspec.json.decode(routes.options_json or b"{}", type=LogOptions)
    return Router(map_of(routes), options.compression.value, routes.created_us)


def _shard(log: str, route: common_pb2.ShardRoute) -> Shard:
    end = route.range.end if route.range.HasField("end") else None
    return Shard(
        id=route.shard,
        log=log,
        range=KeyRange(route.range.start, end),
        epoch=route.epoch,
        primary=route.primary,
        in_sync=tuple({route.primary, *route.addresses}),
        status=ShardStatus(route.status),
        addresses=dict(route.addresses),
        route=dict(route.shares),
        spread_reads=route.spread_reads,
        predecessors=tuple(route.predecessors),
        successors=tuple(route.successors),
        sealed_end=route.sealed_end if route.HasField("sealed_end") else None,
    )


def another(created_us: int, found_us: int) -> bool:
    """Whether two logs of one name are different; 0: unknown."""
    return created_us != found_us and 0 not in (created_us, found_us)


def replaced(log: str, created_us: int) -> UnknownLogError:
    """The error for users of the log that had the name before."""
    since = datetime.datetime.fromtimestamp(created_us / 1e6, datetime.UTC)
    return UnknownLogError(
        f"log {log!r} was deleted; the log {log!r} that was created at {since:%Y-%m-%dT%H:%M:%SZ}"
        " is another one: open it with log()"
    )


class _NobodyReachedError(UnavailableError):
    """No connection to any address was open: nothing was sent."""


class Directory:
    """The way to each address, and a `Router` for each log in use."""

    def __init__(
        self,
        addresses: list[str],
        env: Env,
        lifetime: Lifetime,
        *,
        client_group: str,
        transport: Transport,
    ) -> None:
        """`transport`: closed with this."""
        self.addresses = addresses
        self.lifetime = lifetime
        self.caller = common_pb2.Caller(client_group=client_group)
        self._env = env
        self._transport = transport
        self._routers: dict[str, Router] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._fetches: dict[str, asyncio.Future[Router]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, dict[Tell, None]] = {}
        self._last: str | None = None
        self._turn = 0
        self._silent: set[str] = set()
        """Addresses that did not answer the last time; they are tried last."""
        self.on_change: Callable[[Router], None] = lambda router: None
        self.on_gone: Callable[[str, LogstoreError], None] = lambda log, error: None

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to an address; an error when this is not where the client lives."""
        self.lifetime.check()
        return self._transport.channel(address)

    def cached(self, log: str) -> Router | None:
        return self._routers.get(log)

    async def router(self, log: str) -> Router:
        """The cached map of a log; the first use fetches it and begins to watch it."""
        return self._routers.get(log) or await self.refresh(log)

    async def refresh(self, log: str) -> Router:
        """Fetch the map now. Callers at the same time share one call.

        Raises UnknownLogError when all that answered say so, UnavailableError without an answer.
        """
        self.lifetime.check()
        found = self._fetches.get(log)
        if found is None:
            found = self._fetches[log] = self.lifetime.start(self._fetch(log, 0))
            found.add_done_callback(lambda _: self._fetches.pop(log, None))
        return await asyncio.shield(found)

    def ask_another(self) -> None:
        """The party that answered last may be cut off from the metadata: the next fetch begins
        elsewhere."""
        self._last = None
        self._turn += 1

    async def changed(self, log: str, timeout_s: float) -> None:
        """Return when a newer map of the log arrived, or after the time."""
        event = self._changed.setdefault(log, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    def hold(self, log: str, tell: Tell) -> None:
        """`tell` is called with the error when the log ends."""
        self._held.setdefault(log, {})[tell] = None

    def let_go(self, log: str, tell: Tell) -> None:
        held = self._held.get(log, {})
        held.pop(tell, None)
        if not held:
            self._held.pop(log, None)

    def ended(self, log: str, error: LogstoreError) -> None:
        """The log is gone, or cannot be followed any more: drop its map, notify all its users."""
        self._routers.pop(log, None)
        watch = self._watches.pop(log, None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        self._tell(log, error)

    def _tell(self, log: str, error: LogstoreError) -> None:
        for tell in self._held.pop(log, {}):
            tell(error)
        self.on_gone(log, error)

    async def catalog(self, method: str, request: Any) -> Any:
        """Call the coordinator's Catalog at the given address that serves it."""
        return await self.coordinator(coordinator_pb2_grpc.CatalogStub, method, request)

    async def coordinator(self, stub_of: Any, method: str, request: Any) -> Any:
        """Call a service of the coordinator (its stub's class) where it is served.

        While leadership changes hands a coordinator may answer that it leads no longer and wrote
        nothing (FencedError): then the call is made again. It is also repeated, a few times, if it
        reached no coordinator: after a restart of all a connection is opened again within a second.
        """
        for attempt, wait_s in enumerate(FENCED_WAITS_S):
            try:
                return await self._coordinator_once(stub_of, method, request)
            except FencedError:
                pass
            except _NobodyReachedError as e:
                if attempt >= UNREACHED_RETRIES:
                    raise UnavailableError(e.message) from None
            await asyncio.sleep(wait_s)
        return await self._coordinator_once(stub_of, method, request)

    async def _coordinator_once(self, stub_of: Any, method: str, request: Any) -> Any:
        error: LogstoreError = UnavailableError("no address serves the coordinator's calls")
        reached = False
        for address in self.addresses:
            stub = stub_of(self.channel(address))
            try:
                return await getattr(stub, method)(request, timeout=30.0)
            except grpc.aio.AioRpcError as e:
                if e.code() is grpc.StatusCode.UNIMPLEMENTED:
                    continue
                reached = reached or NOT_CONNECTED not in (e.details() or "")
                error = from_rpc(e)
                if not isinstance(error, (UnavailableError, FencedError)):
                    raise error from None
        if isinstance(error, FencedError):
            raise error
        kind = UnavailableError if reached else _NobodyReachedError
        raise kind(f"no coordinator answered at {', '.join(self.addresses)}: {error.message}")

    async def _fetch(self, log: str, newer_than: int) -> Router:
        try:
            return await self._fetch_once(log, newer_than)
        except UnknownLogError:
            if log not in self._routers:
                raise
        await asyncio.sleep(SUCCESSOR_WAIT_S)
        try:
            return await self._fetch_once(log, 0)
        except UnknownLogError:
            gone = UnknownLogError(f"log {log!r} was deleted")
            self.ended(log, gone)
            raise gone from None

    async def _fetch_once(self, log: str, newer_than: int) -> Router:
        unknown: LogstoreError | None = None
        internal: LogstoreError | None = None
        failed: list[str] = []
        addresses = self._candidates(log)
        while addresses:
            if unknown is None:
                asked, addresses = addresses[:1], addresses[1:]
                answers = [await self._ask(asked[0], log, newer_than, ROUTES_TIMEOUT_S)]
            else:  # one says that it is gone: a party that knows better answers at once
                asked, addresses = addresses, []
                answers = await asyncio.gather(
                    *(self._ask(address, log, 0, SECOND_OPINION_S) for address in asked)
                )
            for address, answer in zip(asked, answers, strict=True):
                if isinstance(answer, Router):
                    self._last = address
                    return self._take(answer)
                failed.append(f"{address} ({answer.message})")
                if isinstance(answer, UnknownLogError):
                    unknown = answer
                elif answer.__cause__ is not None:
                    internal = answer
        if unknown is not None:
            raise UnknownLogError(unknown.message)
        told = f"no address returned the routes of log {log!r}: {'; '.join(failed)}"
        if internal is not None:
            raise LogstoreError(told) from internal.__cause__
        raise UnavailableError(told)

    async def _ask(
        self, address: str, log: str, newer_than: int, timeout_s: float
    ) -> Router | LogstoreError:
        """One party's map, or why it returned none; a foreign error is the answer's cause."""
        request = log_pb2.RoutesRequest(log=log, newer_than=newer_than)
        stub = cast("Any", log_pb2_grpc.RouteServiceStub(self.channel(address)))
        error: LogstoreError
        try:
            router = router_of(await stub.Routes(request, timeout=timeout_s))
            self._silent.discard(address)
            return router
        except grpc.aio.AioRpcError as e:
            error = from_rpc(e)
            if isinstance(error, UnknownLogError):
                return error
        except ShardMapError as e:  # read while a change of several shards was under way
            error = UnavailableError(f"its map is not whole: {e}")
        except Exception as e:
            error = as_ours(e)
        self._silent.add(address)
        return error

    def _candidates(self, log: str) -> list[str]:
        known = self._routers.get(log)
        instances = known.map.shards if known is not None else ()
        named = [address for shard in instances for address in shard.addresses.values()]
        every = dict.fromkeys([*self.addresses, *named])
        heard = [address for address in every if address not in self._silent]
        turn = self._turn % len(heard) if heard else 0
        first = [self._last] if self._last is not None and self._last not in self._silent else []
        return list(dict.fromkeys([*first, *heard[turn:], *heard[:turn], *every]))

    def _take(self, router: Router) -> Router:
        """Keep the newer of two maps; wake those who wait."""
        log = router.map.log
        known = self._routers.get(log)
        if known is not None and known.map.version >= router.map.version:
            return known
        self._routers[log] = router
        if known is not None and another(known.created_us, router.created_us):
            self._tell(log, replaced(log, router.created_us))
        event = self._changed.pop(log, None)
        if event is not None:
            event.set()
        if log not in self._watches and not self.lifetime.closed:
            self._watches[log] = self.lifetime.spawn(
                self._watch(log), lambda watch, error: self._unwatched(log, watch, error)
            )
        self.on_change(router)
        return router

    async def _watch(self, log: str) -> None:
        """Long-poll for newer maps until the log is gone or the client closes."""
        loop = asyncio.get_running_loop()
        while log in self._routers:
            version = self._routers[log].map.version
            asked = loop.time()
            try:
                router = await self._fetch(log, version)
            except UnknownLogError:
                return
            except UnavailableError:
                await asyncio.sleep(WATCH_PAUSE_S * (1 + self._env.rng.random()))
                continue
            if router.map.version != version:
                continue
            self.ask_another()  # one that is cut off knows of nothing new
            if loop.time() - asked < WATCH_PAUSE_S:
                await asyncio.sleep(WATCH_PAUSE_S * (1 + self._env.rng.random()))

    def _unwatched(
        self, log: str, watch: "asyncio.Task[None]", error: LogstoreError | None
    ) -> None:
        """A watch ended. If it was the log's, its users would not hear of the log's end any more:
        they are notified now, and the next use begins again."""
        if self._watches.get(log) is watch:
            cause = error or LogstoreError(f"log {log!r} is not watched any more")
            self.ended(log, cause)

    async def close(self) -> None:
        """Close the channels; calls in progress end."""
        await self._transport.close()
