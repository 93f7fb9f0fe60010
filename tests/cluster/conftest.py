"""One cluster for the whole run; each fault has a log of its own, judged at the end."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.__main__ import INSIDE
from tests.cluster.cluster import Cluster
from tests.cluster.judge import MetadataWatch, Verdict, judge
from tests.cluster.load import Load, Rates
from tests.support.history.record import Recorder, Story


@dataclass(slots=True)
class Run:
    """One fault's clients; `verdict` and `story` are there once the block ended."""

    load: Load
    rates: Rates = field(default_factory=Rates)
    verdict: Verdict | None = None
    story: Story | None = None
    converged_s: float = 0.0


Running = Callable[[str], AbstractAsyncContextManager[Run]]


@pytest_asyncio.fixture(scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    folder = os.environ.get(INSIDE)
    if folder is None:
        pytest.exit("the cluster suite runs in namespaces of its own: make test-cluster", 2)
    made = Cluster(Path(folder))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(scope="session")
async def watch(cluster: Cluster) -> AsyncIterator[MetadataWatch]:
    made = MetadataWatch(cluster)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def running(cluster: Cluster, watch: MetadataWatch) -> Running:
    """`async with running("name") as run:` clients run during the block; then heal, wait until
    the cluster is whole while they still run, stop them, and judge everything."""

    @contextlib.asynccontextmanager
    async def under_load(name: str) -> AsyncGenerator[Run, None]:
        recorder = Recorder(cluster.folder / "histories" / f"{name}.jsonl")
        async with Load(cluster.addresses, name, recorder) as load:
            run = Run(load)
            await cluster.converge(name)
            for acks in load.acks.values():
                await acks.first_after(0.0, 30.0)
            try:
                yield run
            finally:
                await cluster.heal()
            await cluster.whole()
            run.converged_s = await cluster.converge(name)
            healed_s = recorder_now()
            for acks in load.acks.values():
                await acks.first_after(healed_s, 30.0)
            await load.finish()
            run.verdict, run.story = await judge(cluster, load, watch)
            counts = load.counts
            print(
                f"\n{name}: whole {run.converged_s:.1f} s after healing; {counts.calls} appends, "
                f"{counts.refused} refused, {counts.unknown} unknown, {counts.conflicts} "
                f"conflicts; {run.verdict.sentence()}",
                flush=True,
            )
        recorder.close()
        assert not run.verdict.violations, run.verdict.violations[:5]
        assert not cluster.unexpected
        await forget(cluster, name)

    return under_load


async def forget(cluster: Cluster, name: str) -> None:
    """Delete the log, so that the next fault meets a small cluster."""
    from logstore.client.client import connect

    async with connect(cluster.addresses) as client:
        await client.delete_log(name)


def recorder_now() -> float:
    import time

    return time.monotonic()
