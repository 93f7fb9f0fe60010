"""Fetches the access samples of instances and learns which shards belong together."""

import asyncio

import numpy as np
import pyarrow as pa
import structlog

from coordinator.statistics.accesses import Instances
from coordinator.statistics.correlations import BIN_US, Correlations
from logstore.base.background import Background
from logstore.base.env import Env
from logstore.base.errors import LogstoreError
from logstore.proto.v1.accesses_pb2 import AccessesRequest

POLL_S = 3.0
LATE_US = 1_000_000
"""Samples are counted so long after their time, when those of every instance are there."""
GAP_BINS_MAX = 600
"""After a longer gap (the coordinator slept) what lies before it is left out."""

_log = structlog.get_logger(__name__)


class AccessLearner:
    """Runs until closed. One request to each instance and poll, for new samples only."""

    def __init__(self, instances: Instances, learned: Correlations, env: Env) -> None:
        self._instances, self._learned, self._env = instances, learned, env
        self._tasks = Background("the access learner")
        self._next_us = self._now_us()

    def start(self) -> None:
        self._tasks.start(self._run())

    async def close(self) -> None:
        await self._tasks.stop()

    def _now_us(self) -> int:
        """The end of the newest bin that is complete at every instance."""
        return (self._env.clock.wall_us() - LATE_US) // BIN_US * BIN_US

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self.poll()

    async def poll(self) -> None:
        """Learn the samples since the last poll."""
        stop_us = self._now_us()
        first_us = max(self._next_us, stop_us - GAP_BINS_MAX * BIN_US)
        if stop_us <= first_us:
            return
        asked = AccessesRequest(since_us=first_us)
        tables: list[pa.Table] = []
        for instance in await self._instances.all():
            try:
                async for part in self._instances.parts(instance, asked):
                    if part.arrow:
                        with pa.ipc.open_stream(part.arrow) as stream:
                            tables.append(stream.read_all())
            except LogstoreError as e:
                _log.debug("samples were not fetched", instance=instance.instance, why=e.message)
        self._next_us = stop_us
        if tables:
            self._learn(pa.concat_tables(tables), first_us, stop_us)

    def _learn(self, rows: pa.Table, first_us: int, stop_us: int) -> None:
        time_us = rows.column("time_us").to_numpy()
        due = np.flatnonzero(time_us < stop_us)
        shards = rows.column("shard").take(pa.array(due)).to_pylist()
        weight = rows.column("weight").to_numpy()[due].astype(np.float64)
        bins = (stop_us - first_us) // BIN_US
        self._learned.learn(shards, time_us[due].astype(np.float64), weight, first_us, bins)
