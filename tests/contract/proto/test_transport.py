"""One contract suite over both sides of the Transport port: gRPC, and the simulator's network."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio
import pytest

from logstore.base.errors import (
    FencedError,
    LogstoreError,
    NotServedHereError,
    UnavailableError,
    WrongClusterError,
)
from logstore.proto.handshake import Doorkeeper, MemberChannel
from logstore.proto.server import GrpcServer
from logstore.proto.status import called, served
from logstore.proto.transport import GrpcTransport, Transport
from logstore.proto.v1 import node_pb2
from logstore.proto.v1.node_pb2_grpc import (
    NodeAdminStub,
    PeerServiceServicer,
    PeerServiceStub,
)
from tests.simulation.loop import Process, die
from tests.simulation.network import Network
from tests.simulation.transport import SimTransport
from tests.simulation.world import World

ITEMS = 100
"""Messages of a stream: more than the simulator's window holds."""
ANSWER_S = 20.0
SHORT_S = 0.2
ENDLESS = "endless"
SERVICE = "logstore.v1.PeerService"
T = TypeVar("T")


class Peer(PeerServiceServicer):
    """Answers, refuses or stays silent, as the request says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.called = 0
        self.left_s: float | None = None
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def _for_ever(self) -> None:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()

    async def Ping(self, request: Any, context: Any) -> Any:
        self.called += 1
        self.left_s = context.time_remaining()
        async with served(context):
            if request.instance == ENDLESS:
                await self._for_ever()
            if request.instance == "fenced":
                raise FencedError("another leads")
            return node_pb2.PingResponse(instance=self.name)

    async def Feed(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Batches; then, if so asked, an error or nothing more."""
        self.called += 1
        async with served(context):
            for number in range(ITEMS):
                yield node_pb2.FeedBatch(high_watermark=number)
            if request.shard == ENDLESS:
                await self._for_ever()
            if request.shard == "fenced":
                raise FencedError("another leads")

    async def Replicate(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.called += 1
        async with served(context):
            async for request in requests:
                yield node_pb2.ReplicateAck(end=request.end)


def peer_named(name: str = "server") -> Peer:
    return Peer(name)  # type: ignore[abstract]  # nobody calls the rest


class Side(Protocol):
    """A server that can be stopped, and the transport of one process that calls it."""

    transport: Transport
    address: str

    async def serve(self, peer: Peer, cluster: str = "") -> None:
        """Serve at `address`; a server of that cluster (empty: any) is called by its members."""
        ...

    async def stop(self) -> None: ...

    def run(self, body: "Callable[[Side], Awaitable[None]]") -> None: ...


class GrpcSide:
    def __init__(self) -> None:
        self.address = ""
        self._server: GrpcServer | None = None

    async def serve(self, peer: Peer, cluster: str = "") -> None:
        self._server = GrpcServer([Doorkeeper(lambda: (cluster, peer.name))])
        self.address = self._server.listen(self.address or "127.0.0.1:0", None)
        await self._server.start({SERVICE: peer})

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0.0)
        self._server = None

    def run(self, body: "Callable[[Side], Awaitable[None]]") -> None:
        async def work() -> None:
            self.transport: Transport = GrpcTransport()
            try:
                await body(self)
            finally:
                await self.transport.close()
                await self.stop()

        asyncio.run(work())


class SimSide:
    def __init__(self) -> None:
        self.address = "10.0.0.1:7400"
        self.world = World(seed=1)
        self.network = Network(self.world)
        self.transport: Transport = SimTransport(self.network)
        self._server = Process("server", alive=False)

    async def serve(self, peer: Peer, cluster: str = "") -> None:
        self._server = Process("server")
        keeper = Doorkeeper(lambda: (cluster, peer.name))
        self.network.serve(self.address, self._server, {SERVICE: peer}, [keeper])

    async def stop(self) -> None:
        die(self._server)
        self.network.died(self._server)

    def run(self, body: "Callable[[Side], Awaitable[None]]") -> None:
        loop = self.world.loop

        async def work() -> None:
            await body(self)

        try:
            loop.run_until_complete(loop.spawn_in(Process("client"), work(), "client"))
        finally:
            loop.over = True
            for task in loop.tasks:
                task.cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
        assert self.world.violations == []


@pytest.fixture(params=[GrpcSide, SimSide], ids=["grpc", "simulation"])
def side(request: pytest.FixtureRequest) -> Side:
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    made: Side = request.param()
    return made


async def ping(
    channel: grpc.aio.Channel, instance: str = "", timeout_s: float | None = ANSWER_S
) -> str:
    """The name of who answered."""
    async with called():
        request = node_pb2.PingRequest(instance=instance)
        return (await PeerServiceStub(channel).Ping(request, timeout=timeout_s)).instance
    raise AssertionError("called() ends the call")


def endless(channel: grpc.aio.Channel) -> "asyncio.Task[str]":
    """A call that ends by no deadline."""
    return asyncio.create_task(ping(channel, ENDLESS, None))


async def error_of(work: Awaitable[object]) -> LogstoreError:
    with pytest.raises(LogstoreError) as found:
        async with called():
            await work
    return found.value


# ---- calls ---------------------------------------------------------------------------------------


def test_a_call_is_answered_and_an_address_has_one_channel(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        channel = side.transport.channel(side.address)
        assert await ping(channel) == "server"
        assert side.transport.channel(side.address) is channel

    side.run(body)


def test_an_error_of_ours_crosses_as_it_is(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        stub = PeerServiceStub(side.transport.channel(side.address))
        error = await error_of(ping(side.transport.channel(side.address), "fenced"))
        assert (type(error), error.message) == (FencedError, "another leads")
        seen = []

        async def read() -> None:
            request = node_pb2.FeedRequest(shard="fenced")
            async for batch in stub.Feed(request, timeout=ANSWER_S):
                seen.append(batch.high_watermark)

        error = await error_of(read())
        assert (type(error), error.message) == (FencedError, "another leads")
        assert seen == list(range(ITEMS))

    side.run(body)


def test_a_call_that_nobody_serves_says_so(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        stub = NodeAdminStub(side.transport.channel(side.address))
        error = await error_of(stub.Status(node_pb2.StatusRequest(), timeout=ANSWER_S))
        assert type(error) is NotServedHereError

    side.run(body)


def test_messages_of_a_stream_come_in_order_and_the_stream_ends(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        stub = PeerServiceStub(side.transport.channel(side.address))
        call = stub.Feed(node_pb2.FeedRequest(), timeout=ANSWER_S)
        assert [batch.high_watermark async for batch in call] == list(range(ITEMS))
        assert await call.code() is grpc.StatusCode.OK

    side.run(body)


def test_both_ways_at_once_come_in_order_until_the_caller_has_sent_all(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        call = PeerServiceStub(side.transport.channel(side.address)).Replicate(timeout=ANSWER_S)
        seen = []

        async def read() -> None:
            async for ack in call:
                seen.append(ack.end)

        reading = asyncio.create_task(read())
        for number in range(ITEMS):
            await call.write(node_pb2.ReplicateRequest(end=number))
        await call.done_writing()
        await reading
        assert seen == list(range(ITEMS))

    side.run(body)


# ---- ends of a call ------------------------------------------------------------------------------


def test_a_caller_that_cancels_ends_the_call_at_its_server(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer)
        calling = endless(side.transport.channel(side.address))
        await peer.begun.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await asyncio.wait_for(peer.ended.wait(), ANSWER_S)

    side.run(body)


def test_a_stream_that_is_cancelled_ends_at_its_server(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer)
        stub = PeerServiceStub(side.transport.channel(side.address))
        call: Any = stub.Feed(node_pb2.FeedRequest(shard=ENDLESS))
        for number in range(ITEMS):
            assert (await call.read()).high_watermark == number
        reading = asyncio.create_task(call.read())
        await peer.begun.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.wait_for(peer.ended.wait(), ANSWER_S)

    side.run(body)


def test_a_deadline_is_known_to_the_server_and_ends_the_call(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer)
        channel = side.transport.channel(side.address)
        assert await ping(channel) == "server"
        error = await error_of(ping(channel, ENDLESS, SHORT_S))
        assert type(error) is UnavailableError
        assert "deadline" in error.message.lower()
        assert peer.left_s is not None
        assert 0.0 < peer.left_s < 2 * SHORT_S
        await asyncio.wait_for(peer.ended.wait(), ANSWER_S)

    side.run(body)


def test_a_server_that_stops_ends_its_calls(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer)
        calling = endless(side.transport.channel(side.address))
        await peer.begun.wait()
        await side.stop()
        assert type(await error_of(calling)) is UnavailableError

    side.run(body)


# ---- who is reached ------------------------------------------------------------------------------


def test_who_cannot_be_reached_is_unavailable_and_never_ready(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named())
        await side.stop()
        channel = side.transport.channel(side.address)
        assert type(await error_of(ping(channel))) is UnavailableError
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await channel.channel_ready()

    side.run(body)


def test_a_channel_reaches_a_server_that_was_started_again(side: Side) -> None:
    async def body(side: Side) -> None:
        await side.serve(peer_named("first"))
        channel = side.transport.channel(side.address)
        assert await ping(channel) == "first"
        await side.stop()
        assert type(await error_of(ping(channel))) is UnavailableError
        await side.serve(peer_named("second"))
        async with asyncio.timeout(ANSWER_S):
            await channel.channel_ready()
        assert await ping(side.transport.channel(side.address)) == "second"

    side.run(body)


def test_a_call_for_another_cluster_or_instance_is_refused_before_it_is_served(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer, "ours")
        channel = side.transport.channel(side.address)
        for cluster, to in (("another", "server"), ("ours", "another"), ("another", "")):
            member = MemberChannel(channel, cluster, to)
            assert type(await error_of(ping(member))) is WrongClusterError
            feed = PeerServiceStub(member).Feed(node_pb2.FeedRequest(), timeout=ANSWER_S)
            assert type(await error_of(anext(aiter(feed)))) is WrongClusterError
            both = PeerServiceStub(member).Replicate(timeout=ANSWER_S)
            assert type(await error_of(both.read())) is WrongClusterError
        assert peer.called == 0
        assert await ping(MemberChannel(channel, "ours", "server")) == "server"
        assert await ping(channel) == "server"  # a client of users says nothing

    side.run(body)


# ---- the end of the transport --------------------------------------------------------------------


def test_a_closed_transport_ends_its_calls_and_opens_nothing(side: Side) -> None:
    async def body(side: Side) -> None:
        peer = peer_named()
        await side.serve(peer)
        calling = endless(side.transport.channel(side.address))
        await peer.begun.wait()
        await side.transport.close()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await asyncio.wait_for(peer.ended.wait(), ANSWER_S)
        with pytest.raises(UnavailableError, match="the transport is closed"):
            side.transport.channel(side.address)
        await side.transport.close()

    side.run(body)


# ---- gRPC alone: the simulator has no connections ------------------------------------------------


async def test_a_channel_that_was_left_behind_is_closed_and_one_in_use_is_not() -> None:
    idle_s = 0.3
    transport, servers, peers = GrpcTransport(idle_s=idle_s), [GrpcSide() for _ in range(3)], []
    for server in servers:
        peers.append(peer_named())
        await server.serve(peers[-1])
    left, used, new = (server.address for server in servers)
    try:
        behind, busy = transport.channel(left), transport.channel(used)
        assert await ping(behind) == "server"
        calling = endless(busy)
        await peers[1].begun.wait()
        async with asyncio.timeout(ANSWER_S):
            while behind.get_state() is not grpc.ChannelConnectivity.IDLE:
                await behind.wait_for_state_change(behind.get_state())
        assert list(transport.addresses) == [left, used]
        assert await ping(transport.channel(new)) == "server"
        assert list(transport.addresses) == [used, new]
        assert not calling.done()
        assert await ping(transport.channel(left)) == "server"  # opened again
        assert list(transport.addresses) == [used, new, left]
        calling.cancel()
    finally:
        await transport.close()
        for server in servers:
            await server.stop()
    assert list(transport.addresses) == []
