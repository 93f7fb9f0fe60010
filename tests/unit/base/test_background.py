"""Tasks beside an owner: each end is seen once, and the owner's end is theirs."""

import asyncio
from contextvars import ContextVar
from typing import NoReturn

import pytest
import structlog

from logstore.base import background
from logstore.base.background import Background, alongside, end, first_of

WHO: ContextVar[str] = ContextVar("who")


async def forever() -> NoReturn:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the future is never done")


async def fails(error: BaseException) -> None:
    raise error


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Reports:
    def __init__(self) -> None:
        self.seen: list[tuple[str, BaseException]] = []

    def __call__(self, name: str, error: BaseException) -> None:
        self.seen.append((name, error))


async def test_a_task_that_fails_is_reported_once_and_ends_alone() -> None:
    reports, error = Reports(), ValueError("unforeseen")
    tasks = Background("an owner", reports)
    other = tasks.start(forever())
    tasks.start(fails(error), "the one")
    await turns()
    assert reports.seen == [("the one", error)]
    assert list(tasks) == [other]
    assert not other.done()
    await tasks.stop()
    assert reports.seen == [("the one", error)]


async def test_a_failure_that_no_owner_takes_is_logged() -> None:
    tasks = Background("repair")
    with structlog.testing.capture_logs() as logs:
        tasks.start(fails(ValueError("unforeseen")))
        await turns()
    (line,) = logs
    assert (line["log_level"], line["owner"], line["task"]) == ("error", "repair", "fails")
    assert str(line["exc_info"]) == "unforeseen"


async def test_a_task_that_ends_or_is_stopped_is_not_reported() -> None:
    reports = Reports()
    tasks = Background("an owner", reports)
    tasks.start(turns(1))
    tasks.start(forever())
    cancelled = tasks.start(forever())
    await turns()
    cancelled.cancel()
    await turns()
    assert len(tasks) == 1
    await tasks.stop()
    assert (len(tasks), reports.seen) == (0, [])


async def test_a_cancellation_that_nobody_asked_for_is_reported() -> None:
    """What the task waits for was cancelled; its own end would be taken for a stop."""
    reports = Reports()
    future = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        await future

    tasks = Background("an owner", reports)
    tasks.start(waits(), "waits")
    await turns()
    future.cancel()
    await turns()
    ((name, error),) = reports.seen
    assert name == "waits"
    assert isinstance(error, asyncio.CancelledError)


async def test_the_error_of_an_answer_is_its_awaiters_alone() -> None:
    reports, error = Reports(), ValueError("told")
    tasks = Background("an owner", reports)
    with pytest.raises(ValueError, match="told"):
        await tasks.answer(fails(error))
    assert (len(tasks), reports.seen) == (0, [])


async def test_stop_cancels_in_the_order_of_the_start_and_awaits_all() -> None:
    tasks, ended = Background("an owner"), list[int]()

    async def slow(number: int) -> None:
        try:
            await forever()
        finally:
            await turns(3)
            ended.append(number)

    for number in range(4):
        tasks.start(slow(number))
    await turns()
    await tasks.stop()
    assert ended == [0, 1, 2, 3]
    await tasks.stop()  # nothing is left, and it says so at once


async def test_stop_awaits_what_a_task_starts_as_it_ends() -> None:
    tasks, ended = Background("an owner"), list[str]()

    async def last() -> None:
        try:
            await forever()
        finally:
            ended.append("last")

    async def parent() -> None:
        try:
            await forever()
        finally:
            tasks.start(last())
            await turns()

    tasks.start(parent())
    await turns()
    await tasks.stop()
    assert (len(tasks), ended) == (0, ["last"])


async def test_stop_by_one_of_the_tasks_ends_the_others_and_lets_it_finish() -> None:
    tasks, ended = Background("an owner"), list[str]()

    async def stops() -> None:
        await tasks.stop()
        ended.append("the stopper")

    other = tasks.start(forever())
    stopper = tasks.start(stops())
    await asyncio.wait([stopper])
    assert other.cancelled()
    assert ended == ["the stopper"]
    assert not stopper.cancelled()


async def test_a_task_that_ignores_one_cancel_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_S", 0.01)
    tasks, ignored = Background("an owner"), list[str]()

    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            ignored.append("once")
        await forever()

    task = tasks.start(stubborn(), "stubborn")
    await turns()
    with structlog.testing.capture_logs() as logs:
        await tasks.stop()
    assert task.cancelled()
    assert ignored == ["once"]
    assert [line["task"] for line in logs] == ["stubborn"]


async def test_a_stop_that_is_cancelled_still_waits_for_the_tasks() -> None:
    tasks, ended = Background("an owner"), list[str]()

    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.append("slow")

    tasks.start(slow())
    await turns()
    stopping = asyncio.get_running_loop().create_task(tasks.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (len(tasks), ended) == (0, ["slow"])


async def test_a_task_belongs_to_the_context_of_the_call_that_starts_it() -> None:
    tasks, seen = Background("an owner"), list[str]()

    async def looks() -> None:
        seen.append(WHO.get())

    async def starts(who: str) -> None:
        WHO.set(who)
        tasks.start(looks())

    await asyncio.gather(starts("one process"), starts("another"))
    await turns()
    assert seen == ["one process", "another"]


async def test_end_leaves_out_the_task_that_calls_it() -> None:
    me = asyncio.current_task()
    assert me is not None
    other = asyncio.get_running_loop().create_task(forever())
    await end(other, me)
    assert other.cancelled()
    assert me.cancelling() == 0


async def test_the_first_of_two_ends_the_other() -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await forever()
        finally:
            await turns()
            ended.set()

    async def quick() -> int:
        return 7

    assert await first_of(quick(), slow()) == (7, None)
    assert ended.is_set()
    assert await first_of(forever(), forever(), timeout_s=0.01) == (None, None)
    with pytest.raises(ValueError, match="first"):
        await first_of(fails(ValueError("first")), forever())


async def test_what_runs_alongside_ends_with_the_body() -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.set()

    async with alongside(slow()):
        await turns()
        assert not ended.is_set()
    assert ended.is_set()


async def test_the_first_failure_ends_body_and_helpers_and_is_raised_itself() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(ValueError, match="helper"):
            async with alongside(fails(ValueError("helper"))):
                await forever()
    with pytest.raises(KeyError):
        async with alongside(forever()):
            raise KeyError("body")
