"""Each waiter for a background task hears of its end, however it ended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.base.errors import ClientClosedError, LogstoreError, UnavailableError
from logstore.client.funnel import Funnel
from logstore.client.lifetime import Lifetime

Produce = Callable[[Funnel[int]], Coroutine[Any, Any, None]]
WAIT_S = 5.0


async def opened() -> Lifetime:
    lifetime = Lifetime("the client")

    async def close() -> None:
        lifetime.end()

    lifetime.open(close)
    return lifetime


@pytest.fixture
async def lifetime() -> AsyncIterator[Lifetime]:
    found = await opened()
    yield found
    found.end()
    await found.finish()


async def drained(funnel: Funnel[int]) -> list[int]:
    found = []
    async with asyncio.timeout(WAIT_S):
        while (item := await funnel.take_or_none()) is not None:
            found.append(item)
    return found


class Odd(BaseException):
    """Not even an Exception."""


ERRORS = [ValueError("x"), KeyError(1), OSError("disk"), AssertionError(), RuntimeError(), Odd("o")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("others", [0, 3])
async def test_an_error_that_is_not_ours_ends_the_wait_with_its_cause(
    lifetime: Lifetime, error: BaseException, others: int
) -> None:
    funnel: Funnel[int] = Funnel(lifetime, 2)

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def fails() -> None:
        await funnel.put(1)
        raise error

    for _ in range(others):
        funnel.add(forever())
    funnel.add(fails())
    async with asyncio.timeout(WAIT_S):
        assert await funnel.take() == 1
        for _ in range(2):  # it stays so
            with pytest.raises(LogstoreError, match=type(error).__name__) as e:
                await funnel.take()
            assert e.value.__cause__ is error
            assert e.value.code == "internal"
    await funnel.close()


async def test_our_errors_come_as_they_are_after_what_came_before(lifetime: Lifetime) -> None:
    funnel: Funnel[int] = Funnel(lifetime, 9)

    async def fails() -> None:
        for i in range(5):
            await funnel.put(i)
        raise UnavailableError("gone")

    funnel.add(fails())
    with pytest.raises(UnavailableError, match=r"^gone$"):
        assert await drained(funnel) == list(range(5))
    assert await drained_then(funnel) == "gone"


async def drained_then(funnel: Funnel[int]) -> str:
    try:
        await funnel.take()
    except LogstoreError as e:
        return e.message
    return "no error"


async def test_a_producer_that_is_cancelled_from_outside_is_told(lifetime: Lifetime) -> None:
    funnel: Funnel[int] = Funnel(lifetime, 1)
    begun: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result(task)
        await asyncio.get_running_loop().create_future()

    funnel.add(waits())
    taking = asyncio.ensure_future(funnel.take())
    (await begun).cancel()
    with pytest.raises(LogstoreError, match="cancelled from outside"):
        await asyncio.wait_for(taking, WAIT_S)


async def test_the_end_of_the_client_drops_what_waits_and_ends_the_wait() -> None:
    lifetime = await opened()
    funnel: Funnel[int] = Funnel(lifetime, 1)

    async def endless() -> None:
        while True:
            await funnel.put(0)

    funnel.add(endless())
    assert await funnel.take() == 0
    await asyncio.sleep(0)
    lifetime.end()
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(funnel.take(), WAIT_S)
    await lifetime.finish()
    with pytest.raises(ClientClosedError):
        Funnel(lifetime, 1)


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=5),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=40, max_size=80),
)
def test_takes_that_are_cancelled_take_nothing(
    parts: list[list[int]], limit: int, cancels: list[bool]
) -> None:
    """Each producer's items come in order, all of them, whatever steps were cancelled."""

    async def run() -> list[int]:
        lifetime = await opened()
        funnel: Funnel[int] = Funnel(lifetime, limit)

        async def produce(number: int, items: list[int]) -> None:
            for item in items:
                if item % 3 == 0:
                    await asyncio.sleep(0)
                await funnel.put(number * 100 + item)

        for number, items in enumerate(parts):
            funnel.add(produce(number, items))
        found = []
        for cancel in cancels:
            step = asyncio.ensure_future(funnel.take_or_none())
            await asyncio.sleep(0)
            if cancel and not step.done():
                step.cancel()
            item = (await asyncio.gather(step, return_exceptions=True))[0]
            if isinstance(item, int):
                found.append(item)
        found += await drained(funnel)
        lifetime.end()
        await lifetime.finish()
        return found

    found = asyncio.run(run())
    for number, items in enumerate(parts):
        assert [f % 100 for f in found if f // 100 == number] == items


async def test_a_shared_result_is_an_error_of_ours_however_it_ended(lifetime: Lifetime) -> None:
    async def fails() -> int:
        raise ZeroDivisionError("0")

    async def works() -> int:
        return 5

    assert await lifetime.start(works()) == 5
    with pytest.raises(LogstoreError, match="ZeroDivisionError: 0"):
        await lifetime.start(fails())
