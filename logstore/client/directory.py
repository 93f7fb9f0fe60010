"""Where things are: channels, the coordinator's catalog, and the cached shard map of each log.

Routes are asked of whoever answered last, then of the given addresses, then of any instance that a
map named; so clients go on while the coordinator is down. Each log in use is watched by a long
poll, so that a move is known before it is run into; an error that says "refresh" asks at once.
"""

import asyncio
import contextlib
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
from logstore.base.tls import TlsOptions
from logstore.client.router import Router
from logstore.meta.records import LogOptions
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2_grpc
from logstore.proto.status import from_rpc
from logstore.proto.v1 import common_pb2, log_pb2, log_pb2_grpc
from sharder.keys import KeyRange, Partitioner
from sharder.shard_map import Shard, ShardMap, ShardStatus

ROUTES_TIMEOUT_S = 3.0
"""How long one party may take to tell a map, its own wait of up to 1 s for a newer one included."""

WATCH_PAUSE_S = 0.5
"""Pause of a watch after an answer that brought nothing new sooner than it should have."""

FENCED_WAITS_S = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Pauses before a coordinator's service is asked again while its leadership changes hands."""

UNREACHED_RETRIES = 3
NOT_CONNECTED = "failed to connect"
"""What gRPC says of a call that it never sent."""


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
    return Router(map_of(routes), options.compression.value)


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


class _NobodyReachedError(UnavailableError):
    """No connection to any address was open: nothing was sent."""


class Directory:
    """Channels by address, and a `Router` for each log in use."""

    def __init__(
        self, addresses: list[str], env: Env, *, client_group: str, tls: TlsOptions | None
    ) -> None:
        self.addresses = addresses
        self.caller = common_pb2.Caller(client_group=client_group)
        self._env = env
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._routers: dict[str, Router] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._fetches: dict[str, asyncio.Task[Router]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._last: str | None = None
        self._turn = 0
        self._silent: set[str] = set()
        """Addresses that did not answer when they were asked last; they are asked last."""
        self._closed = False
        self.on_change: Callable[[Router], None] = lambda router: None
        self.on_gone: Callable[[str], None] = lambda log: None

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to an address; opened once."""
        if self._closed:
            raise UnavailableError("the client is closed")
        if address not in self._channels:
            self._channels[address] = open_channel(address, self._tls)
        return self._channels[address]

    def cached(self, log: str) -> Router | None:
        return self._routers.get(log)

    async def router(self, log: str) -> Router:
        """The cached map of a log; the first use fetches it and begins to watch it."""
        return self._routers.get(log) or await self.refresh(log)

    async def refresh(self, log: str) -> Router:
        """Fetch the map now. Callers at the same time share one call.

        Raises UnknownLogError when all that answered say so, UnavailableError when nobody answered.
        """
        task = self._fetches.get(log)
        if task is None:
            task = asyncio.create_task(self._fetch(log, 0))
            self._fetches[log] = task
            task.add_done_callback(lambda _: self._fetches.pop(log, None))
        return await asyncio.shield(task)

    def ask_another(self) -> None:
        """Who answered last may be cut off from the metadata: the next fetch begins elsewhere."""
        self._last = None
        self._turn += 1

    async def changed(self, log: str, timeout_s: float) -> None:
        """Return when a newer map of the log arrived, or after the time."""
        event = self._changed.setdefault(log, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    def forget(self, log: str) -> None:
        """The log is gone: drop its map and stop watching it."""
        self._routers.pop(log, None)
        watch = self._watches.pop(log, None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        self.on_gone(log)

    async def catalog(self, method: str, request: Any) -> Any:
        """Call the coordinator's Catalog at whichever of the given addresses serves it."""
        return await self.coordinator(coordinator_pb2_grpc.CatalogStub, method, request)

    async def coordinator(self, stub_of: Any, method: str, request: Any) -> Any:
        """Call a service of the coordinator (its stub's class) where it is served.

        While leadership changes hands a coordinator may answer that it leads no longer and wrote
        nothing (FencedError): then the call is made again. So it is, a few times, where it reached
        nobody: after a restart of all a connection is opened again within a second.
        """
        for attempt, wait_s in enumerate(FENCED_WAITS_S):
            try:
                return await self._coordinator_once(stub_of, method, request)
            except FencedError:
                pass
            except _NobodyReachedError:
                if attempt >= UNREACHED_RETRIES:
                    raise
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
        request = log_pb2.RoutesRequest(log=log, newer_than=newer_than)
        unknown: LogstoreError | None = None
        failed: list[str] = []
        for address in self._candidates(log):
            stub = cast("Any", log_pb2_grpc.RouteServiceStub(self.channel(address)))
            try:
                routes = await stub.Routes(request, timeout=ROUTES_TIMEOUT_S)
            except grpc.aio.AioRpcError as e:
                error = from_rpc(e)
                if isinstance(error, UnknownLogError):
                    unknown = error
                else:
                    self._silent.add(address)
                failed.append(f"{address} ({error.message})")
                continue
            self._last = address
            self._silent.discard(address)
            return self._take(router_of(routes))
        if unknown is not None:
            raise UnknownLogError(unknown.message)
        raise UnavailableError(f"no party told the routes of log {log!r}: {'; '.join(failed)}")

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
        """Keep the newer of two maps; tell those who wait."""
        log = router.map.log
        known = self._routers.get(log)
        if known is not None and known.map.version >= router.map.version:
            return known
        self._routers[log] = router
        event = self._changed.pop(log, None)
        if event is not None:
            event.set()
        if log not in self._watches and not self._closed:
            self._watches[log] = asyncio.create_task(self._watch(log))
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
                self.forget(log)
                return
            except LogstoreError:
                await asyncio.sleep(WATCH_PAUSE_S * (1 + self._env.rng.random()))
                continue
            if router.map.version != version:
                continue
            self.ask_another()  # one that is cut off knows of nothing new
            if loop.time() - asked < WATCH_PAUSE_S:
                await asyncio.sleep(WATCH_PAUSE_S * (1 + self._env.rng.random()))

    async def close(self) -> None:
        """Stop the watches and close the channels; calls in progress end."""
        self._closed = True
        tasks = [*self._watches.values(), *self._fetches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()
