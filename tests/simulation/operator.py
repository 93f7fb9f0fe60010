"""A person with the command line: orders go over the network, to any coordinator that answers."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc.aio
import msgspec

from logstore.base.errors import LogstoreError, UnavailableError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import DrainsStub, MigrationsStub, PlansStub
from logstore.proto.status import called
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import NodeAdminStub
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.transport import Channel
from tests.simulation.world import World

NAME = "operator"
ANSWER_S = 20.0
REACH_S = 0.5

Order = Callable[[grpc.aio.Channel], Awaitable[Any]]


class Operator:
    """Gives each order once, and reports the answer."""

    def __init__(self, world: World, network: Network, coordinators: Sequence[str]) -> None:
        self.world, self._network = world, network
        self._coordinators = coordinators
        self.process = Process(NAME)
        self.waits_for: Counter[str] = Counter()
        """Orders that were not answered yet."""

    def move(self, shard: str, target: str, strategy: str) -> None:
        request = pb.MoveRequest(shard=shard, target=target, strategy=strategy)
        self._give(
            f"a {strategy} move of {shard} to {target}",
            lambda to: MigrationsStub(to).Move(request, timeout=ANSWER_S),
        )

    def reshape(self, parents: Sequence[str], key: bytes | None) -> None:
        """A split at a record's key, or a merge."""
        request = pb.ReshapeRequest(parents=parents, key=key)
        self._give(
            f"a {'merge' if key is None else 'split'} of {' '.join(parents)} at {key!r}",
            lambda to: MigrationsStub(to).Reshape(request, timeout=ANSWER_S),
        )

    def control(self, migration: str, action: str) -> None:
        request = pb.ControlRequest(id=migration, action=action, cause="asked for")
        self._give(
            f"{action} of {migration}",
            lambda to: MigrationsStub(to).Control(request, timeout=ANSWER_S),
        )

    def drain(self, instance: str, *, cancel: bool = False) -> None:
        """Have the instance emptied, or let it take shards again."""
        request = pb.DrainRequest(instance=instance)

        async def order(to: grpc.aio.Channel) -> Any:
            drains = DrainsStub(to)
            return await (drains.Cancel if cancel else drains.Begin)(request, timeout=ANSWER_S)

        self._give(f"{'the end of ' if cancel else ''}a drain of {instance}", order)

    def autopilot(self, mode: str) -> None:
        """Whether the planner may start moves."""
        request = pb.SetAutopilotRequest(mode=mode)
        self._give(
            f"autopilot {mode}", lambda to: PlansStub(to).SetAutopilot(request, timeout=ANSWER_S)
        )

    def trim(self, address: str, shard: str, offset: int, done: Callable[[], None]) -> None:
        """Drop an instance's records of the shard below the offset; `done` when it has."""
        request = node_pb2.TrimRequest(shard=shard, offset=offset)
        work = self._trim(address, request, done)
        self.world.loop.spawn_in(self.process, work, "trim")

    async def _trim(
        self, address: str, request: node_pb2.TrimRequest, done: Callable[[], None]
    ) -> None:
        what = f"a trim of {request.shard} below {request.offset} at {address}"
        try:
            async with called():
                channel: Any = Channel(self._network, address)
                stub: Any = NodeAdminStub(channel)
                answer = await stub.Trim(request, timeout=ANSWER_S)
        except LogstoreError as e:
            self.world.tell(f"{what} is refused: {e.message}")
        else:
            self.world.tell(f"{what}: it begins at {answer.base}")
            done()

    def _give(self, what: str, order: Order) -> None:
        addresses = list(self._coordinators)
        self.world.chaos.shuffle(addresses)
        self.waits_for[what] += 1
        work = self._ask(what, order, addresses)
        self.world.loop.spawn_in(self.process, work, what)

    async def _ask(self, what: str, order: Order, addresses: Sequence[str]) -> None:
        try:
            channel: Any = await self._reach(addresses)  # it has the calls of grpc's
            async with called():
                answer = msgspec.json.decode((await order(channel)).json)
            self.world.tell(f"{what}: {answer.get('id', '')} {answer.get('state', '')}")
        except LogstoreError as e:
            self.world.tell(f"{what} is refused: {e.message}")
        finally:
            self.waits_for[what] -= 1

    async def _reach(self, addresses: Sequence[str]) -> Channel:
        for address in addresses:
            channel = Channel(self._network, address)
            try:
                async with asyncio.timeout(REACH_S):
                    await channel.channel_ready()
            except TimeoutError:
                continue
            return channel
        raise UnavailableError("no coordinator can be reached")
