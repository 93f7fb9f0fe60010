"""A bare grpc.aio echo: what an RPC costs when nothing is done. `python -m bench.peers.echo PORT`.

Unary and bidirectional stream, bytes in and out, no protobuf; server and client are two processes.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from bench.services.base import ProcessService, ServiceProcess
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun

UNARY = "/bench.Echo/Unary"
STREAM = "/bench.Echo/Stream"
OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


async def serve(port: int) -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return request

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[:16]  # an ack, not the payload back

    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class EchoServer(ProcessService):
    name = "grpc-echo"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.members[0].ports[0]}"

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        name, folder = self._member_folder(run, 0)
        (port,) = free_ports(1)
        self.source = "this package"
        code = f"import sys; sys.path[:0] = {sys.path!r}; from bench.peers.echo import main; main()"
        return [ServiceProcess(name, folder, [sys.executable, "-c", code, str(port)], [port])]

    def _ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.members[0].ports[0]), timeout=1.0):
            return True


async def unary_per_s(address: str, *, concurrency: int, payload: bytes, seconds: float) -> float:
    """Calls/s of a closed loop with `concurrency` calls in flight."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call: Any = channel.unary_unary(UNARY)
        assert await call(payload) == payload
        return await closed_loop(lambda: call(payload), concurrency=concurrency, seconds=seconds)


async def closed_loop(call: Any, *, concurrency: int, seconds: float) -> float:
    """Finished calls per second of `concurrency` workers that each call again at once."""
    done = 0
    begin = time.perf_counter()

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() - begin < seconds:
            await call()
            done += 1

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return done / (time.perf_counter() - begin)


async def stream_mb_per_s(
    address: str, *, message_bytes: int, count: int, window: int = 16
) -> float:
    """MB/s one way on one bidirectional stream, a small ack for each message."""
    payload = bytes(message_bytes)
    slots = asyncio.Semaphore(window)

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(count):
            await slots.acquire()
            yield payload

    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        start: Any = channel.stream_stream(STREAM)
        call = start(requests())
        got = 0
        begin = time.perf_counter()
        async for _ in call:
            slots.release()
            got += 1
        seconds = time.perf_counter() - begin
    assert got == count
    return count * message_bytes / seconds / 1e6


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
