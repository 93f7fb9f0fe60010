"""gRPC calls over a simulated network: the real services and stubs, without sockets.

As with TCP, the messages of one call stay in order and none is lost alone: a lossy path breaks the
call. What crosses a break is open: in-flight messages may still arrive at the server, whose handler
lives on for a while. `duplicate` replays the last messages of a call on a ghost call, late, which
is harsher than TCP: the protocol must not care.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any

import grpc
import grpc.aio

from logstore.proto.v1 import log_pb2
from tests.simulation.loop import PROCESS, Process
from tests.simulation.serving import CallDetails, Ended, Server, ServerContext
from tests.simulation.world import World

DELAY_S = (0.0001, 0.001)
STALL_S = (0.5, 6.0)
"""A call over a blocked path ends after so long."""
WINDOW_MESSAGES = 32
GHOST_MESSAGES = 8
TICK_S = 1e-7
"""Messages of one call are at least so far apart: timers of one moment have no order."""
GHOSTS_OF = ("Replicate", "AppendStream")


class Network:
    """Which processes reach each other, how fast, and the calls under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.servers: dict[str, Server] = {}
        self.blocked: set[tuple[str, str]] = set()
        """(from, to) by process name; one direction each."""
        self.slow: dict[str, float] = {}
        """Process name -> most seconds that a message of it, or to it, is delayed."""
        self.lossy: dict[str, float] = {}
        """Process name -> chance that a message breaks its call."""
        self.repeating: dict[str, float] = {}
        """Process name -> chance that a call's last messages are replayed."""
        self.calls: dict[int, Call] = {}
        self.on_answer: Callable[[Call, Any], None] = lambda call, message: None
        """Told of every answer as its server sends it."""
        self._numbers = 0

    def serve(
        self,
        address: str,
        process: Process,
        services: dict[str, Any],
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        """`services`: full gRPC service name -> servicer."""
        self.servers[address] = Server(process, services, interceptors)

    def number(self, call: "Call") -> int:
        self._numbers += 1
        self.calls[self._numbers] = call
        return self._numbers

    def reaches(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) not in self.blocked

    def delay_s(self, sender: str, receiver: str) -> float:
        rng = self.world.delays
        most = max(self.slow.get(sender, 0.0), self.slow.get(receiver, 0.0))
        return rng.uniform(*DELAY_S) + (rng.random() * most if most else 0.0)

    def breaks(self, sender: str, receiver: str) -> bool:
        chance = max(self.lossy.get(sender, 0.0), self.lossy.get(receiver, 0.0))
        return chance > 0 and self.world.delays.random() < chance

    def block(self, sender: str, receiver: str) -> None:
        self.blocked.add((sender, receiver))

    def unblock(self, sender: str, receiver: str) -> None:
        """What was stalled arrives."""
        self.blocked.discard((sender, receiver))
        for call in list(self.calls.values()):
            call.unstall()

    def died(self, process: Process, *, silent: bool = False) -> None:
        """The kernel resets the process's connections; after a power loss it does not (silent)."""
        for call in list(self.calls.values()):
            if process in (call.client, call.server):
                rng = self.world.delays
                later_s = rng.uniform(*STALL_S) if silent else rng.uniform(*DELAY_S)
                self.world.after(later_s, call.lose, "connection reset")


class Pipe:
    """One direction of a call: messages in order, each some time under way."""

    def __init__(self, call: "Call", sender: str, receiver: str) -> None:
        self.call = call
        self.sender = sender
        self.receiver = receiver
        self.inbox: deque[Any] = deque()
        self.stalled: deque[Any] = deque()
        self.under_way = 0
        self.cut = False
        self._last_s = 0.0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def send(self, item: Any) -> None:
        network, world = self.call.network, self.call.network.world
        if self.cut:
            return
        if network.breaks(self.sender, self.receiver):
            world.after(network.delay_s(self.sender, self.receiver), self.call.lose, "packet loss")
        when_s = world.now_s + network.delay_s(self.sender, self.receiver)
        when_s = max(self._last_s + TICK_S, when_s)
        self._last_s = when_s
        self.under_way += 1
        world.at(when_s, self._arrive, item)

    async def room(self) -> None:
        """Flow control: wait while too much is under way."""
        while self.under_way >= WINDOW_MESSAGES and not self.cut:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def _arrive(self, item: Any) -> None:
        network = self.call.network
        if self.stalled or not network.reaches(self.sender, self.receiver):
            if not self.stalled:
                stall_s = network.world.delays.uniform(*STALL_S)
                network.world.after(stall_s, self._give_up)
            self.stalled.append(item)
            return
        self._deliver(item)

    def _give_up(self) -> None:
        if self.stalled:
            self.stalled.clear()
            self.call.lose("no answer of the other side")

    def unstall(self) -> None:
        if self.stalled and self.call.network.reaches(self.sender, self.receiver):
            items, self.stalled = self.stalled, deque()
            for item in items:
                self._deliver(item)

    def _deliver(self, item: Any) -> None:
        self.under_way -= 1
        self.inbox.append(item)
        self.call.network.world.trace(f"{self.call.id} {self.sender}>{self.receiver}")
        self.wake()

    def wake(self) -> None:
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until something may have arrived."""
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader


class _Message:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _HalfClose:
    """The client has sent all."""


class Call:
    """The client's end of one call, and what the network knows of it."""

    def __init__(
        self,
        network: Network,
        address: str,
        path: str,
        kind: str,
        timeout_s: float | None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.network = network
        self.details = CallDetails(path, metadata)
        self.until_s = None if timeout_s is None else network.world.now_s + timeout_s
        self.path = path
        self.kind = kind
        client = PROCESS.get()
        assert client is not None
        self.client: Process = client
        self.id = network.number(self)
        self.ended: Ended | None = None
        self.cancelled = False
        self.channel: grpc.aio.Channel | None = None
        self.lost = False
        self.sent: deque[Any] = deque(maxlen=GHOST_MESSAGES)
        self.answered: set[int] = set()
        """Ids of appends whose answers were read: no network brings those messages again, and a
        client may rely on that (rule 2 of the lane)."""
        self.task: asyncio.Task[Any] | None = None
        found = network.servers.get(address)
        self.server: Process | None = found.process if found is not None else None
        name = self.server.name if self.server is not None else address
        self.up = Pipe(self, client.name, name)
        self.down = Pipe(self, name, client.name)
        world = network.world
        if found is None or not found.process.alive:
            world.after(world.delays.uniform(*DELAY_S), self.lose, "connection refused")
        elif not network.reaches(client.name, name) and world.delays.random() < 0.5:
            world.after(world.delays.uniform(0.1, 1.0), self.lose, "no connection")
        else:
            world.after(network.delay_s(client.name, name), self._connect, found)
        if timeout_s is not None:
            world.after(timeout_s, self._expire)

    # ---- the client's calls --------------------------------------------------------------------

    def send(self, message: Any) -> None:
        self.sent.append(message)
        self.up.send(_Message(message))

    async def write(self, message: Any) -> None:
        if self.ended is not None:  # as grpc.aio does; only an end during the write has a status
            raise asyncio.InvalidStateError("RPC already finished.")
        await self.up.room()
        if self.ended is not None:
            raise self._error(self.ended)
        self.send(message)

    def end_sending(self) -> None:
        self.up.send(_HalfClose())

    async def done_writing(self) -> None:
        self.end_sending()

    async def read(self) -> Any:
        while True:
            if self.down.inbox:
                item = self.down.inbox.popleft()
                if isinstance(item, _Message):
                    if isinstance(item.value, log_pb2.AppendResult):
                        self.answered.add(item.value.id)
                    return item.value
                self._end(item)
            if self.ended is not None:
                if self.ended[0] is grpc.StatusCode.OK:
                    return grpc.aio.EOF
                if self.cancelled:  # as grpc.aio does where the caller itself cancelled
                    raise asyncio.CancelledError
                raise self._error(self.ended)
            await self.down.wait()

    async def code(self) -> grpc.StatusCode:
        while self.ended is None:
            await self.read()
        return self.ended[0]

    def cancel(self) -> bool:
        if self.ended is not None:
            return False
        self.cancelled = True
        self._end((grpc.StatusCode.CANCELLED, "cancelled here", ()))
        self._stop_server()
        return True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items()

    async def _items(self) -> AsyncIterator[Any]:
        while (item := await self.read()) is not grpc.aio.EOF:
            yield item

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._unary().__await__()

    async def _unary(self) -> Any:
        try:
            answer = await self.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self.network.calls.pop(self.id, None)
        return answer

    def _error(self, ended: Ended) -> grpc.aio.AioRpcError:
        code, text, trailing = ended
        return grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=text
        )

    # ---- the network's part --------------------------------------------------------------------

    def _end(self, ended: Ended) -> None:
        if self.ended is None:
            self.ended = ended
            self.up.cut = True
            self.network.calls.pop(self.id, None)
            self.down.wake()
            self.up.wake()
            self._haunt()

    def _expire(self) -> None:
        if self.ended is None:
            self._end((grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded", ()))
            self._stop_server()

    def lose(self, why: str) -> None:
        """The connection is gone; what is under way to the server may still be taken there."""
        if self.lost or self.ended is not None:
            return
        self.lost = True
        world = self.network.world
        if world.delays.random() < 0.5:
            self.up.stalled.clear()
        self.down.cut = True
        self.down.stalled.clear()
        self._end((grpc.StatusCode.UNAVAILABLE, why, ()))
        if self.task is not None:
            world.after(world.delays.uniform(0.0, 2.0), self._cancel_server)

    def unstall(self) -> None:
        self.up.unstall()
        self.down.unstall()

    def _stop_server(self) -> None:
        """Notify the server that the client has gone."""
        world = self.network.world
        if self.task is None or self.task.done():
            return
        slow = not self.network.reaches(self.client.name, self.up.receiver)
        delay_s = world.delays.uniform(*STALL_S) if slow else world.delays.uniform(*DELAY_S)
        world.after(delay_s, self._cancel_server)

    def _cancel_server(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()

    def _connect(self, found: Server) -> None:
        process = found.process
        if self.ended is not None and not self.up.inbox and not self.up.under_way:
            return
        if not process.alive:
            self.lose("connection refused")
            return
        if self.path.strip("/").partition("/")[0] not in found.services:
            self._end((grpc.StatusCode.UNIMPLEMENTED, f"no service of {self.path}", ()))
            return
        loop = self.network.world.loop
        self.task = loop.spawn_in(process, self._serve(found), f"{self.path} {self.id}")
        self.task.add_done_callback(_consume)

    async def _serve(self, server: Server) -> None:
        context = ServerContext(self)
        ended: Ended = (grpc.StatusCode.OK, "", ())
        try:
            handler = await server.handler(self.details, self.kind)
            requests = self._requests()
            first = await anext(requests, None) if self.kind[0] == "u" else None
            if self.kind[0] == "u" and first is None:
                return  # the request was lost with its sender
            argument = first if self.kind[0] == "u" else requests
            if self.kind[1] == "u":
                self._answer(await handler(argument, context))
            else:
                answers = handler(argument, context)
                if asyncio.iscoroutine(answers):  # the doorkeeper's refusal, which aborts
                    await answers
                else:
                    async for item in answers:
                        await self.down.room()
                        self._answer(item)
        except grpc.aio.AbortError:
            assert context.aborted is not None
            ended = context.aborted
        except asyncio.CancelledError:
            return
        except Exception as e:
            self.network.world.violate("exception", f"{self.path}: {type(e).__name__}: {e}")
            ended = (grpc.StatusCode.UNKNOWN, f"unexpected {type(e).__name__}: {e}", ())
        self.down.send(ended)

    def _answer(self, message: Any) -> None:
        self.network.on_answer(self, message)
        self.down.send(_Message(message))

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            while self.up.inbox:
                item = self.up.inbox.popleft()
                if isinstance(item, _HalfClose):
                    return
                yield item.value
            await self.up.wait()

    def _haunt(self) -> None:
        """Replay the last messages late, on a call whose answers have no reader."""
        network, world = self.network, self.network.world
        chance = max(network.repeating.get(n, 0.0) for n in (self.up.sender, self.up.receiver))
        if not chance or not self.sent or self.path.rpartition("/")[2] not in GHOSTS_OF:
            return
        if world.delays.random() < chance:
            again = [m for m in self.sent if getattr(m, "id", None) not in self.answered]
            world.after(world.delays.uniform(0.0, 1.5), self._ghost, again)

    def _ghost(self, messages: list[Any]) -> None:
        if self.server is None or not self.server.alive or not self.client.alive:
            return
        address = next(
            (a for a, s in self.network.servers.items() if s.process is self.server), None
        )
        if address is None:
            return
        world = self.network.world
        world.tell(f"ghost of {self.path} from {self.client.name} to {self.server.name}")
        token = PROCESS.set(self.client)
        ghost = Call(self.network, address, self.path, self.kind, world.delays.uniform(2.0, 4.0))
        PROCESS.reset(token)
        ghost.sent = deque(maxlen=0)
        for message in messages:
            ghost.send(message)


def _consume(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
