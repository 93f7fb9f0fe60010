import asyncio

import pytest

from coordinator.local.background import background


async def test_work_ends_with_what_it_is_beside() -> None:
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background(forever()):
        await asyncio.sleep(0)
        assert not ended.is_set()
    assert ended.is_set()


async def run_beside(body: Exception | None) -> None:
    async def fails() -> None:
        raise ValueError("background")

    async with background(fails()):
        await asyncio.sleep(0)
        if body is not None:
            raise body


async def test_its_failure_is_raised_unless_the_body_failed_itself() -> None:
    with pytest.raises(ValueError, match="background"):
        await run_beside(None)
    with pytest.raises(KeyError):
        await run_beside(KeyError("body"))
