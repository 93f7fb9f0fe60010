"""One cluster for the whole run; each scenario has a log of its own, judged at its end."""

import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from logstore.client.client import connect
from tests.cluster.judge import MetadataWatch, Verdict
from tests.cluster.load import Load, Rates
from tests.compose.__main__ import RUN
from tests.compose.docker import Compose
from tests.compose.judge import judge
from tests.compose.stack import Stack
from tests.support.history.record import Recorder, Story

RATES = Rates(per_producer=20.0, conditional_pause_s=0.1, reader_pause_s=0.2, readers=1)
"""Fourteen containers and the clients share two cores."""


@dataclass(slots=True)
class Run:
    """One scenario's clients; `verdict` and `story` are there once the block ended."""

    load: Load
    verdict: Verdict | None = None
    story: Story | None = None


Running = Callable[[str], AbstractAsyncContextManager[Run]]


@pytest_asyncio.fixture(scope="session")
async def stack() -> AsyncIterator[Stack]:
    given = os.environ.get(RUN)
    if given is None:
        pytest.exit("the compose suite is run by: make test-compose", 2)
    answer = json.loads(given)
    compose = Compose(
        answer["compose"], answer["project"], answer["environment"], tuple(answer["files"])
    )
    made = Stack(compose, Path(answer["folder"]))
    try:
        print(f"\nbring-up: all serve after {await made.up():.1f} s", flush=True)
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture(scope="session")
async def watch(stack: Stack) -> AsyncIterator[MetadataWatch]:
    made = MetadataWatch(stack)  # type: ignore[arg-type]  # it uses the store alone
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def running(stack: Stack, watch: MetadataWatch) -> Running:
    """`async with running("name") as run:` clients run during the block; then heal, wait until
    the cluster is whole while they still run, stop them, and judge everything."""

    @contextlib.asynccontextmanager
    async def under_load(name: str) -> AsyncGenerator[Run, None]:
        began_s = time.monotonic()
        recorder = Recorder(stack.folder / "histories" / f"{name}.jsonl")
        async with Load(stack.addresses, name, recorder, rates=RATES) as load:
            run = Run(load)
            await stack.converge(name)
            for acks in load.acks.values():
                await acks.first_after(0.0, 30.0)
            try:
                yield run
            finally:
                await stack.heal()
            await stack.whole()
            whole_s = await stack.converge(name)
            healed_s = time.monotonic()
            for acks in load.acks.values():
                await acks.first_after(healed_s, 30.0)
            await load.finish()
            run.verdict, run.story = await judge(stack, load, watch)
            counts = load.counts
            print(
                f"\n{name}: whole {whole_s:.1f} s after healing; {counts.calls} appends, "
                f"{counts.refused} refused, {counts.unknown} unknown, {counts.conflicts} "
                f"conflicts; {run.verdict.sentence()}; {time.monotonic() - began_s:.0f} s",
                flush=True,
            )
        recorder.close()
        assert not run.verdict.violations, run.verdict.violations[:5]
        assert run.verdict.acked > 0
        assert run.verdict.polled > 0
        async with connect(stack.addresses) as client:
            await client.delete_log(name)

    return under_load
