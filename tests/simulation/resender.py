"""A client of another language, on the unary call: it sends one request many times, to anyone.

Whatever it hears, a request keeps its producer and sequence until it is decided, and is sent again
long after its ack: to another instance, after a move, after a split (I6, S2, S5, P10).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from logstore.base.errors import LogstoreError
from logstore.client.client import Log
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2, log_pb2_grpc
from sharder.keys import routing_key
from tests.simulation.client import Caller, Pool
from tests.simulation.limits import producer_window
from tests.simulation.network import Network
from tests.simulation.transport import Channel
from tests.simulation.world import World
from tests.support.checkers.history import AppendCall, Outcome

ATTEMPT_S = (0.15, 0.6, 1.5)
GIVE_UP_S = (0.8, 3.0, 8.0)
AGAIN_MAX = 5
"""Acked requests that it goes on sending, also when a small window has forgotten them."""
AGAIN_CHANCE = 0.4
RESUME_CHANCE = 0.6
"""That a new process sends what the last one left undecided."""
CONDITIONAL_CHANCE = 0.25
UNCERTAIN = frozenset({"unavailable", "outcome_unknown", "internal"})


@dataclass(slots=True)
class _Request:
    """One append, and what all its attempts together have shown."""

    call: AppendCall
    message: log_pb2.AppendRequest
    uncertain: bool = False
    sealed: bool = False
    refused: bool = False
    acks: int = 0


class Resender(Caller):
    """Appends one record at a time."""

    def __init__(
        self,
        world: World,
        number: int,
        network: Network,
        addresses: list[str],
        pool: Pool,
        excused: Callable[[], frozenset[str]],
    ) -> None:
        super().__init__(world, f"resender-{number}", network)
        self._addresses, self._pool = addresses, pool
        self._excused = excused
        self._rng = Random(world.callers.getrandbits(64))
        self.keys = [f"{first}-r{number}-{k}".encode() for k in range(2) for first in "az"]
        self._number = 0
        self._producers: dict[str, tuple[int, int]] = {}
        """Shard -> (producer, the last sequence that was acked)."""
        self._pending: _Request | None = None
        self._acked: deque[_Request] = deque(maxlen=AGAIN_MAX)
        self._again = False

    def send_again(self) -> None:
        """Send what was acked to everybody, now."""
        self._again = True

    def kill(self) -> None:
        super().kill()
        self._network.died(self.process)

    async def _run(self) -> None:
        async with self._connect(self._addresses) as db:
            log = await self._open(db)
            await self._resume(log)
            while self._pool.left > 0:
                await asyncio.sleep(self._rng.expovariate(1 / 0.05))
                await self._append(log)
                if self._again or self._rng.random() < AGAIN_CHANCE:
                    await self._send_old(everybody=self._again)
                    self._again = False
            await self._send_old(everybody=True)
        self.done = True

    async def _resume(self, log: Log) -> None:
        """The last process left it undecided: send it again under its number, or begin again."""
        request, self._pending = self._pending, None
        if request is not None and self._rng.random() < RESUME_CHANCE:
            request.uncertain = True
            await self._decide(log, request, self.world.now_s + GIVE_UP_S[-1])
            self._ended(request.call, request, not request.sealed)
        self._producers.clear()

    async def _send_old(self, *, everybody: bool) -> None:
        if not self._acked:
            return
        for request in list(self._acked) if everybody else [self._rng.choice(list(self._acked))]:
            to = self._addresses if everybody else [self._rng.choice(self._addresses)]
            await asyncio.gather(*(self._attempt(request, address) for address in to))

    async def _append(self, log: Log) -> None:
        self._number += 1
        self._pool.left -= 1
        key = self._rng.choice(self.keys)
        value = f"{self.name}-{self._number}".encode()
        call = AppendCall(self.who, key, value, self.world.now_s)
        self.world.history.appends.append(call)
        version = None
        if self._rng.random() < CONDITIONAL_CHANCE:
            version = call.expected_version = await self._version(log, key)
        until_s = self.world.now_s + self._rng.choice(GIVE_UP_S)
        uncertain = False
        while True:
            request = await self._request(log, call, version, until_s)
            if request is None:
                break
            self._pending = request
            await self._decide(log, request, until_s)
            uncertain |= request.uncertain
            if request.acks or request.refused or not request.sealed:
                break
            uncertain = False  # surely not stored there (S5): on to a successor
        self._ended(call, request, uncertain)

    async def _version(self, log: Log, key: bytes) -> int | None:
        try:
            return len([record async for record in log.read(key=key)])
        except LogstoreError:
            return None

    async def _request(
        self, log: Log, call: AppendCall, version: int | None, until_s: float
    ) -> _Request | None:
        """The request to the shard that has the key now; None: no answer in time."""
        while self.world.now_s < until_s:
            try:
                shards = await log.shard_map()
            except LogstoreError:
                await asyncio.sleep(0.1)
                continue
            found = shards.find(routing_key(shards.partitioner, call.key)).id
            fresh = self._rng.getrandbits(62) + 1, 0
            producer, last = self._producers.setdefault(found, fresh)
            record = log_pb2.Record(key=call.key, value=call.value)
            message = log_pb2.AppendRequest(
                log=log.name, shard=found, producer_id=producer, sequence=last + 1, records=[record]
            )
            if version is not None:
                message.expected_version = version
            return _Request(call, message)
        return None

    async def _decide(self, log: Log, request: _Request, until_s: float) -> None:
        """Send until an instance decides it, or until it is given up."""
        while self.world.now_s < until_s:
            to = await self._whom(log, request.message.shard)
            await asyncio.gather(*(self._attempt(request, address) for address in to))
            if request.acks or request.sealed or request.refused:
                return
            await asyncio.sleep(self._rng.uniform(0.01, 0.15))

    async def _whom(self, log: Log, shard: str) -> list[str]:
        """Mostly who leads, twice or with another one at the same time now and then."""
        rng, other = self._rng, self._rng.choice(self._addresses)
        try:
            found = (await log.shard_map()).get(shard)
        except LogstoreError:
            found = None
        first = found.address if found is not None and found.address else other
        return rng.choice(([first], [first], [first, first], [first, other], [other]))

    async def _attempt(self, request: _Request, address: str) -> None:
        stub = log_pb2_grpc.LogServiceStub(Channel(self._network, address))
        try:
            async with called():
                answer = await stub.Append(request.message, timeout=self._rng.choice(ATTEMPT_S))
        except LogstoreError as e:
            self._failed(request, e)
            return
        call, place = request.call, (answer.shard, answer.base_offset)
        if request.acks and place != (call.shard, call.offset):
            self._wrong(request, f"at {place} and at {(call.shard, call.offset)}")
        if request.sealed:
            self._wrong(request, f"at {place}, and said to be surely not stored")
        if not request.acks:
            call.shard, call.offset = place
            if call.expected_version is not None:
                call.version = answer.version
        request.acks += 1

    def _failed(self, request: _Request, error: LogstoreError) -> None:
        if error.code == "out_of_sequence":
            self._check_window(request, error.message)
        if error.code == "sealed":
            request.sealed = True
            if request.acks:
                self._wrong(request, "and then said to be surely not stored")
        elif error.code in UNCERTAIN:
            request.uncertain = True
        elif not (error.retriable or error.refresh_route) and not request.acks:
            request.refused = True

    def _check_window(self, request: _Request, text: str) -> None:
        """What a producer's window holds is known to whoever knows what came after it (I6)."""
        last = int(text.rpartition(" ")[2]) - 1
        behind = last - request.message.sequence
        if request.acks and 0 <= behind < producer_window():
            self._wrong(request, f", and is forgotten, {behind} behind the last")

    def _wrong(self, request: _Request, text: str) -> None:
        if request.message.shard not in self._excused():
            self.world.violate("I6", f"{request.call.value!r} was acked {text}")

    def _ended(self, call: AppendCall, request: _Request | None, uncertain: bool) -> None:
        call.returned_s, self._pending = self.world.now_s, None
        if request is not None and request.acks:
            call.outcome = Outcome.ACKED
            self._acked.append(request)
            message = request.message
            self._producers[message.shard] = message.producer_id, message.sequence
        else:
            call.outcome = Outcome.UNKNOWN if uncertain else Outcome.REFUSED
            self._producers.clear()  # it starts over, as a new producer
        self.world.trace(f"{call.value!r} {call.outcome} {call.shard}:{call.offset}")
