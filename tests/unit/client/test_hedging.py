"""A read's call and the second replica (P8): which answer counts, what is left behind."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from logstore.client.hedging import HedgedCall
from logstore.client.lifetime import Lifetime
from logstore.client.replicas import SILENT_S, Replicas
from tests.unit.client.test_replicas import SPREAD


class Call:
    """A call of grpc.aio whose messages a test sends."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = False

    async def read(self) -> Any:
        item = await self.messages.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True
        self.messages.put_nowait(asyncio.CancelledError())


class Calls:
    """The calls in the order in which they were begun."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, Call]] = []
        self.arrived = asyncio.Event()
        self.setup: Callable[[str, Call], None] = lambda instance, call: None

    def begin(self, instance: str) -> Call:
        call = Call()
        self.begun.append((instance, call))
        self.setup(instance, call)
        self.arrived.set()
        return call

    async def until(self, count: int) -> Call:
        async with asyncio.timeout(5):
            while len(self.begun) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.begun[count - 1][1]


def refused(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


class Bench:
    def __init__(self) -> None:
        async def close() -> None: ...

        self.lifetime = Lifetime("a test")
        self.lifetime.open(close)
        self.replicas = Replicas(random.Random(2))
        self.calls = Calls()
        self.hedged = HedgedCall(self.replicas, self.lifetime, SPREAD, "key", "b", self.calls.begin)
        self.first = self.calls.begun[0][1]

    def reading(self) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(self.hedged.read())


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_an_answer_in_time_is_all_there_is(bench: Bench) -> None:
    bench.first.messages.put_nowait("one")
    assert await bench.hedged.read() == "one"
    assert [name for name, _ in bench.calls.begun] == ["b"]


async def test_the_other_replica_answers_and_is_read_on(bench: Bench) -> None:
    reading = bench.reading()
    second = await bench.calls.until(2)
    second.messages.put_nowait("two")
    assert await reading == "two"
    assert bench.first.cancelled
    second.messages.put_nowait("three")
    assert await bench.hedged.read() == "three"
    assert len(bench.calls.begun) == 2
    now_s = asyncio.get_running_loop().time()
    assert {bench.replicas.choose(SPREAD, now_s, primary=False) for _ in range(99)} == {"a", "c"}


async def test_a_late_answer_of_the_first_counts_and_ends_the_hedge(bench: Bench) -> None:
    reading = bench.reading()
    second = await bench.calls.until(2)
    bench.first.messages.put_nowait("late")
    assert await reading == "late"
    async with asyncio.timeout(5):
        while not second.cancelled:
            await asyncio.sleep(0)
    assert not bench.first.cancelled


async def test_one_that_refuses_is_passed_over(bench: Bench) -> None:
    reading = bench.reading()
    (await bench.calls.until(2)).messages.put_nowait(refused())
    (await bench.calls.until(3)).messages.put_nowait("three")
    assert await reading == "three"
    assert {name for name, _ in bench.calls.begun} == {"a", "b", "c"}


async def test_an_error_waits_for_the_other_answer(bench: Bench) -> None:
    reading = bench.reading()
    second = await bench.calls.until(2)
    bench.first.messages.put_nowait(refused())
    await asyncio.sleep(0)
    second.messages.put_nowait("two")
    assert await reading == "two"


async def test_an_error_of_all_is_the_first_ones(bench: Bench) -> None:
    bench.first.messages.put_nowait(refused(grpc.StatusCode.OUT_OF_RANGE))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await bench.hedged.read()
    assert raised.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert len(bench.calls.begun) == 1  # refused at once: the reader says where to ask next


async def test_all_silent_is_asked_again_and_nothing_fails(bench: Bench) -> None:
    reading = bench.reading()
    for count in (2, 3):
        (await bench.calls.until(count)).messages.put_nowait(refused())
    (await bench.calls.until(4)).messages.put_nowait("again")
    assert await reading == "again"


async def test_a_cancelled_read_ends_what_it_began(bench: Bench) -> None:
    reading = bench.reading()
    second = await bench.calls.until(2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(5):
        while not second.cancelled:
            await asyncio.sleep(0)


async def test_a_process_that_stood_still_blames_no_replica(bench: Bench) -> None:
    reading = bench.reading()
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    stopped_until = loop.time() + 2 * SILENT_S
    while loop.time() < stopped_until:
        pass
    loop.call_later(0.05, bench.first.messages.put_nowait, "one")
    assert await reading == "one"
    assert len(bench.calls.begun) == 1
