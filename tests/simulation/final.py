"""The last client of a run, when all is healed: it appends through every copy, and reads all."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from logstore.base.errors import LogstoreError
from logstore.base.types import ShardStatus
from logstore.proto.status import called
from logstore.proto.v1 import log_pb2, log_pb2_grpc
from sharder.keys import Partitioner, routing_key
from tests.simulation.client import LOG, LOOK_S, Caller, open_client, row_of
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.observer import Observer
from tests.simulation.transport import Channel
from tests.simulation.world import World
from tests.support.checkers.history import AppendCall, Outcome, Row

STALE_S = 2.0
"""Who was replaced a moment ago may serve reads without the newest records for a while (P8)."""
TAKEN_S = 3.0
"""In which every copy takes an append once all is healed."""


@dataclass(frozen=True, slots=True)
class AppendTarget:
    """Where an append of this key must be taken: a copy that counts, of a shard that is open."""

    shard: str
    address: str
    key: bytes


class FinalReader:
    """Once all is healed, appends through every copy, then reads the whole log."""

    def __init__(self, world: World, network: Network, addresses: list[str]) -> None:
        self._world, self._network = world, network
        self._addresses = addresses
        self.process = Process("final-reader")
        self.rows: list[Row] | None = None
        self.error = ""

    def start(self, targets: Sequence[AppendTarget]) -> None:
        self._world.loop.spawn_in(self.process, self._run(targets), "final reader")

    async def _append(self, number: int, target: AppendTarget) -> None:
        """Through one copy, leading or not; a follower forwards what is not for itself (H3)."""
        world, value = self._world, b"final-%d" % number
        call = AppendCall(f"final-{number}", target.key, value, world.now_s)
        world.history.appends.append(call)
        stub = log_pb2_grpc.LogServiceStub(Channel(self._network, target.address))
        request = log_pb2.AppendRequest(
            log=LOG, shard=target.shard, producer_id=number + 1, sequence=1,
            records=[log_pb2.Record(key=target.key, value=value)],
        )  # fmt: skip
        until_s, why = world.now_s + TAKEN_S, ""
        while world.now_s < until_s:
            try:
                async with called():
                    answer = await stub.Append(request, timeout=1.0)
            except LogstoreError as e:
                why = e.message
                await asyncio.sleep(LOOK_S)
                continue
            call.shard, call.offset = answer.shard, answer.base_offset
            call.returned_s, call.outcome = world.now_s, Outcome.ACKED
            return
        world.violate("liveness", f"{target.address} takes no append of {target.shard}: {why}")

    async def _run(self, targets: Sequence[AppendTarget]) -> None:
        await asyncio.gather(*(self._append(n, target) for n, target in enumerate(targets)))
        await asyncio.sleep(STALE_S)
        async with open_client(self._world, self._network, self._addresses) as db:
            try:
                log = await db.log(LOG)
                self.rows = [row_of(record) async for record in log.read()]
            except LogstoreError as e:
                self.error = e.message


def append_targets(
    observer: Observer, clients: Sequence[Caller], partitioner: Partitioner
) -> list[AppendTarget]:
    """Every copy that counts, with a key of its shard that clients use, if there is one."""
    found = []
    keys = [key for client in clients for key in client.keys]
    for known in observer.shards.values():
        record = known.record
        key = next((k for k in keys if routing_key(partitioner, k) in record.range), None)
        if record.status is ShardStatus.OPEN and key is not None:
            for member in record.in_sync:
                address = observer.nodes[member.instance].address
                found.append(AppendTarget(record.shard, address, key))
    return found
