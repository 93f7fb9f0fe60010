"""Clients as processes: the real client library, and what each caller did and saw."""

import asyncio
import contextlib
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc.aio

from logstore.base.errors import (
    AppendManyError,
    LogstoreError,
    OutcomeUnknownError,
    VersionAheadError,
    VersionConflictError,
)
from logstore.client.client import Client, Log
from logstore.client.pages import page_of
from logstore.proto.v1 import log_pb2, log_pb2_grpc
from tests.simulation.loop import Process, die
from tests.simulation.network import Network
from tests.simulation.style import TIMEOUT_S, Mix
from tests.simulation.transport import Channel, SimTransport
from tests.simulation.world import World
from tests.support.checkers.history import AppendCall, CopyRead, LatestRead, Outcome, ReadCall, Row

TAIL_CHANCE = 0.25
"""The first client tails the log in every run, each other one now and then."""
ROWS = (2, 8)
"""Records of one `append_many`."""
LOG = "log"
LOOKS, LOOK_S = 40, 0.05
"""So often, and every so many seconds, an isolated primary is asked for the latest."""
PEEKS = 80
"""So often a follower that is cut off is read."""
COPY_ROWS = 20
"""Read of a copy, before what is new."""
MIX = Mix()
CALLS = ("append", "append_many", "conditional", "read", "latest", "whole", "copy")
"""In the order of `Mix.weights`."""


@dataclass(slots=True)
class Pool:
    """Operations that the clients still have to make: each record appended and each read is one.

    One pool for all, so that a client whose calls wait holds up no other.
    """

    left: int


def open_client(
    world: World, network: Network, addresses: list[str], timeout_s: float = TIMEOUT_S
) -> Client:
    """What `connect` makes, over the simulated network."""
    return Client(
        addresses,
        client_group="default",
        timeout_s=timeout_s,
        env=world.env(),
        transport=SimTransport(network),
    )


class Caller:
    """A client's process; it may end suddenly and start again, as another session."""

    def __init__(
        self, world: World, name: str, network: Network, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.world, self.name, self.who = world, name, name
        self._network = network
        self.process = Process(name, alive=False)
        self.done = False
        self.keys: list[bytes] = []
        self._timeout_s = timeout_s
        self._sessions = 0

    def start(self) -> None:
        if not self.process.alive:
            self.process = Process(self.name)
            self._sessions += 1
            self.who = self.name if self._sessions == 1 else f"{self.name}/{self._sessions}"
            self.world.loop.spawn_in(self.process, self._run(), self.name)

    def kill(self) -> None:
        """kill -9: the outcome of its calls is unknown for ever."""
        die(self.process)

    def send_again(self) -> None:
        """Send old requests once more, if it is one who does."""

    def look_at(self, address: str, shard: str) -> None:
        """Ask this instance for the shard's latest for a while, if it is one who asks."""

    def read_at(self, address: str, shard: str) -> None:
        """Read this copy for a while, if it is one who reads."""

    def _connect(self, addresses: list[str]) -> Client:
        return open_client(self.world, self._network, addresses, self._timeout_s)

    async def _open(self, db: Client) -> Log:
        while True:
            try:
                return await db.log(LOG)
            except LogstoreError:
                await asyncio.sleep(0.1)

    async def _run(self) -> None:
        raise NotImplementedError


class SimClient(Caller):
    """Makes calls on the log until the pool is empty and writes them into the history."""

    def __init__(
        self,
        world: World,
        number: int,
        network: Network,
        addresses: list[str],
        keys: list[bytes],
        pool: Pool,
        mix: Mix = MIX,
    ) -> None:
        super().__init__(world, f"client-{number}", network, mix.timeout_s)
        self._pool = pool
        self._mix = mix
        self.keys = keys
        self._addresses = addresses
        self._latest_at = addresses[0]
        """Who showed a latest record last; asked again, also after it was cut off."""
        self._number = 0
        self._rng = Random(world.callers.getrandbits(64))
        self._looks, self._looked_at = 0, ""
        self._peeks, self._peeked_at = 0, ("", "")
        self._seen: dict[str, int] = {}
        """Shard -> the high watermark that a copy showed last."""
        self._calls: dict[asyncio.Task[None], None] = {}
        self._versions: dict[bytes, int] = {}

    def kill(self) -> None:
        super().kill()
        self._network.died(self.process)
        self._calls.clear()
        self._versions.clear()

    async def _run(self) -> None:
        async with self._connect(self._addresses) as db:
            log = await self._open(db)
            tails = self.name.endswith("0") or self._rng.random() < TAIL_CHANCE
            tails = tails or self._mix.tails > 0
            tail = asyncio.create_task(self._tail(log)) if tails else None
            looks = asyncio.create_task(self._look())
            while self._pool.left > 0:
                await asyncio.sleep(self._rng.expovariate(1 / self._mix.think_s))
                while len(self._calls) >= self._mix.in_flight:
                    await asyncio.wait(list(self._calls), return_when=asyncio.FIRST_COMPLETED)
                call = asyncio.create_task(self._call(log))
                self._calls[call] = None
                call.add_done_callback(lambda task: self._calls.pop(task, None))
            while self._calls:
                await asyncio.wait(list(self._calls))
            looks.cancel()
            await asyncio.gather(looks, return_exceptions=True)
            if tail is not None:
                await asyncio.sleep(0.5)  # the tail comes after
                tail.cancel()
                await asyncio.gather(tail, return_exceptions=True)
        self.done = True

    async def _call(self, log: Log) -> None:
        key = self._rng.choice(self.keys)
        match self._rng.choices(CALLS, self._mix.weights)[0]:
            case "append":
                await self._append(log, key)
            case "append_many":
                await self._append_many(log)
            case "conditional":
                await self._append_if(log)
            case "read":
                await self._read(log, key)
            case "latest":
                await self._read_latest(log)
            case "whole":
                await self._read(log, None)
            case "copy":
                await self._read_copy(log)

    def _new(self, key: bytes, expected_version: int | None = None) -> AppendCall:
        self._number += 1
        value = f"{self.name}-{self._number}".encode()
        call = AppendCall(self.who, key, value, self.world.now_s, expected_version)
        self.world.history.appends.append(call)
        self._pool.left -= 1
        return call

    def _ended(self, call: AppendCall, outcome: Outcome) -> None:
        call.returned_s, call.outcome = self.world.now_s, outcome
        self.world.trace(f"{call.value!r} {outcome} {call.shard}:{call.offset}")

    async def _append(self, log: Log, key: bytes, expected: int | None = None) -> None:
        if self._mix.shared and expected is None and self._rng.random() < self._mix.shared:
            key = b"shared-%d" % self._rng.randint(0, 1)
        call = self._new(key, expected)
        try:
            ack = await log.append(key, call.value, expected_version=expected)
        except OutcomeUnknownError:
            self._versions.pop(key, None)
            self._ended(call, Outcome.UNKNOWN)
        except VersionConflictError as e:
            self._versions.pop(key, None)
            if isinstance(e, VersionAheadError):
                self.world.history.ahead.add(call.value)
            self.world.history.conflicts.add(call.value)
            self._ended(call, Outcome.REFUSED)
        except LogstoreError as e:
            self.world.tell(f"{call.value!r} is refused: {type(e).__name__} {e.message}")
            self._ended(call, Outcome.REFUSED)
        else:
            call.shard, call.offset, call.version = ack.shard, ack.offset, ack.version
            self._ended(call, Outcome.ACKED)
            if ack.version is not None:
                self._versions[key] = ack.version
            if self._rng.random() < self._mix.own:
                await self._read(log, key)

    async def _append_many(self, log: Log) -> None:
        keys = [self._rng.choice(self.keys) for _ in range(self._rng.randint(*ROWS))]
        calls = [self._new(key) for key in keys]
        by_value = {call.value: call for call in calls}
        try:
            await log.append_many(keys, [call.value for call in calls])
            stored, unknown = set(range(len(calls))), set[int]()
        except AppendManyError as e:
            stored, unknown = _rows(e.stored), _rows(e.unknown)
        for number, call in enumerate(by_value.values()):
            outcome = Outcome.REFUSED
            if number in stored:
                call.shard = ""
                outcome = Outcome.ACKED
            elif number in unknown:
                outcome = Outcome.UNKNOWN
            self._ended(call, outcome)

    async def _append_if(self, log: Log) -> None:
        """A conditional append on a key that clients share, at the version it last had."""
        key = b"shared-%d" % self._rng.randint(0, 1)
        version = self._versions.get(key)
        if version is None or self._rng.random() < 0.3:
            rows = await self._read(log, key)
            if rows is None:
                return
            version = len(rows) + self._trimmed(key, rows)
        if version and self._rng.random() < self._mix.stale:
            version -= 1
        await self._append(log, key, version)

    def _trimmed(self, key: bytes, rows: list[Row]) -> int:
        """How many records of the key a read did not show, since they were trimmed."""
        shown, trimmed = {row.value for row in rows}, self.world.history.trimmed.values()
        return sum(row.key == key and row.value not in shown for row in trimmed)

    async def _read(self, log: Log, key: bytes | None) -> list[Row] | None:
        call = ReadCall(self.who, key, self.world.now_s, 0.0, [])
        try:
            async for record in log.read(key=key):
                call.rows.append(row_of(record))
        except LogstoreError as e:
            self.world.trace(f"read failed: {e.code}")
            return None
        call.returned_s = self.world.now_s
        self.world.history.reads.append(call)
        self._pool.left -= 1
        self.world.trace(f"read {key!r}: {len(call.rows)}")
        return call.rows

    def look_at(self, address: str, shard: str) -> None:
        self._latest_at, self._looked_at, self._looks = address, shard, LOOKS

    async def _look(self) -> None:
        """Ask it again and again, while the other calls go on."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._peeks and self._pool.left > 0:
                self._peeks -= 1
                await self._ask_copy(*self._peeked_at)
            if self._looks and self._pool.left > 0:
                self._looks -= 1
                await self._ask_latest(self._looked_at, self._latest_at)

    def read_at(self, address: str, shard: str) -> None:
        self._peeked_at, self._peeks = (address, shard), PEEKS

    async def _ask_copy(self, address: str, shard: str) -> None:
        """One copy's high watermark, as a reader without a past is shown it."""
        called_s = self.world.now_s
        try:
            stub = log_pb2_grpc.LogServiceStub(Channel(self._network, address))
            request = log_pb2.ReadRequest(shard=shard, limit=1)
            answers = [answer async for answer in stub.Read(request, timeout=0.5)]
        except (LogstoreError, grpc.aio.AioRpcError):
            return
        if answers:
            end, name = answers[0].high_watermark, self._network.servers[address].process.name
            read = CopyRead(self.who, name, shard, called_s, end)
            self.world.history.copy_reads.append(read)
            self.world.trace(f"copy of {shard} at {address}: {end}")

    async def _read_latest(self, log: Log) -> None:
        """Ask any instance for a shard's latest; only one under a lease may answer (P7)."""
        address = self._rng.choice((self._latest_at, self._rng.choice(self._addresses)))
        with contextlib.suppress(LogstoreError):
            shard = self._rng.choice((await log.shard_map()).open_shards).id
            await self._ask_latest(shard, address)

    async def _ask_latest(self, shard: str, address: str) -> None:
        called_s = self.world.now_s
        try:
            stub = log_pb2_grpc.LogServiceStub(Channel(self._network, address))
            request = log_pb2.ReadRequest(shard=shard, limit=1, primary_only=True)
            answers = [answer async for answer in stub.Read(request, timeout=2.0)]
        except (LogstoreError, grpc.aio.AioRpcError):
            return
        self._latest_at = address
        end = answers[0].high_watermark if answers else 0
        self.world.history.latest.append(LatestRead(self.who, address, shard, called_s, end))
        self._pool.left -= 1
        self.world.trace(f"latest of {shard} at {address}: {end}")

    async def _read_copy(self, log: Log) -> None:
        """The newest records of any one copy, which may be behind, but shows only what stays."""
        address = self._rng.choice(self._addresses)
        try:
            shard = self._rng.choice((await log.shard_map()).shards).id
            stub = log_pb2_grpc.LogServiceStub(Channel(self._network, address))
            start = self._seen.get(shard, 0)
            request = log_pb2.ReadRequest(shard=shard, start_offset=max(0, start - COPY_ROWS))
            call = ReadCall(self.who, None, self.world.now_s, 0.0, [], tail=True)
            async for answer in stub.Read(request, timeout=2.0):
                call.rows += [row_of(record) for record in page_of(answer).records()]
                self._seen[shard] = answer.high_watermark
        except (LogstoreError, grpc.aio.AioRpcError):
            return
        call.returned_s = self.world.now_s
        self.world.history.reads.append(call)
        self._pool.left -= 1
        self.world.trace(f"copy of {shard} at {address}: {len(call.rows)}")

    async def _tail(self, log: Log) -> None:
        call = ReadCall(self.who, None, self.world.now_s, 0.0, [], tail=True)
        self.world.history.reads.append(call)
        with contextlib.suppress(LogstoreError):
            async for record in log.tail(from_start=True):
                call.rows.append(row_of(record))
                call.returned_s = self.world.now_s


def row_of(record: Any) -> Row:
    return Row(record.shard, record.offset, record.key, record.value, record.timestamp)


def _rows(ranges: Any) -> set[int]:
    """Row numbers of half-open ranges."""
    return {row for low, high in ranges for row in range(low, high)}
