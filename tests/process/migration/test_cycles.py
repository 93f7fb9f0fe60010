"""Ten split-merge-move cycles under load, over real processes (`make test-moves`).

Conditional appenders, plain ones with several appends of one key in flight, and a reader that tails
every key never stop. At the end the independent checker counts what is lost, doubled or out of
order. An open-loop client of 200 appends/s tells the longest gap between two acks around each
step, which is what a user would call the stall or the blackout.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import msgspec
import pytest
from grpc.aio import Channel

import logstore
from coordinator.local.cluster import local_cluster
from coordinator.local.journal import Journal
from logstore.base.errors import LogstoreError, UnavailableError
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import CatalogStub, MigrationsStub
from logstore.proto.status import called
from tests.support.sealing import LOG, Tail, Writers, verdict_of

pytestmark = pytest.mark.moves

CYCLES = 10
OPTIONS = {"shadow_s": 0.1, "soak_s": 0.2, "ramp_step": 0.25, "ramp_interval_s": 0.05}
STRATEGIES = ("shadow", "copy-on-write", "log-shipping")
RATE_PER_S = 200
PATIENT = {"follower_timeout_s": 15.0, "lease_s": 15.0, "grace_s": 20.0}
"""A machine under other load must not look like dead instances here."""


class OpenLoop:
    """Appends at a fixed rate whatever comes back; when acks came, by the loop's clock."""

    def __init__(self, db: logstore.Client) -> None:
        self._db = db
        self.acks_s: list[float] = []
        self.errors: list[str] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "OpenLoop":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, *self._calls, return_exceptions=True)

    async def _run(self) -> None:
        log, loop = await self._db.log(LOG), asyncio.get_running_loop()
        due_s, i = loop.time(), 0
        while True:
            while due_s <= loop.time():
                call = loop.create_task(self._one(log, b"open-%d" % (i % 97)))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                due_s, i = due_s + 1 / RATE_PER_S, i + 1
            await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def _one(self, log: logstore.Log, key: bytes) -> None:
        try:
            await log.append(key, b"v")
        except LogstoreError as e:
            self.errors.append(f"{e.code}: {e.message}")
        else:
            self.acks_s.append(asyncio.get_running_loop().time())

    def gap_ms(self, since_s: float) -> float:
        """The longest time between two acks since then."""
        seen = sorted(t for t in self.acks_s if t >= since_s)
        return max((b - a for a, b in itertools.pairwise(seen)), default=0.0) * 1e3


class Operator:
    """Splits, merges and moves by the coordinator's API, measuring each step."""

    def __init__(self, channel: Channel, db: logstore.Client, load: OpenLoop) -> None:
        self.channel, self.db, self.load = channel, db, load
        self.gaps_ms: dict[str, list[float]] = {}
        self.held_ms: dict[str, list[float]] = {}

    @contextlib.asynccontextmanager
    async def measured(self, what: str) -> AsyncIterator[None]:
        since_s = asyncio.get_running_loop().time()
        yield
        await asyncio.sleep(0.3)  # the gap's end belongs to it
        self.gaps_ms.setdefault(what, []).append(self.load.gap_ms(since_s))

    async def ask(self, method: str, request: object) -> dict[str, object]:
        """One call; asking for a state is repeated on a machine too busy to answer."""
        while True:
            try:
                async with called():
                    stub = MigrationsStub(self.channel)
                    answer = await getattr(stub, method)(request, timeout=60)
                    return dict(msgspec.json.decode(answer.json))
            except UnavailableError:
                if method != "Get":
                    raise
                await asyncio.sleep(0.5)

    async def reshape(self, what: str, *parents: str, key: bytes | None = None) -> list[str]:
        request = pb.ReshapeRequest(parents=parents)
        if key is not None:
            request.key = key
        async with self.measured(what):
            found = await self.ask("Reshape", request)
        held = found["stall_ms"]
        assert isinstance(held, dict)
        self.held_ms.setdefault(what, []).extend(held.values())
        successors = found["successors"]
        assert isinstance(successors, list)
        return successors

    async def move(self, shard: str, target: str, strategy: str) -> None:
        request = pb.MoveRequest(
            shard=shard, target=target, strategy=strategy, options_json=msgspec.json.encode(OPTIONS)
        )
        async with self.measured(strategy), asyncio.timeout(60):
            row = await self.ask("Move", request)
            while row["state"] not in ("completed", "rolled-back", "aborted"):
                await asyncio.sleep(0.05)
                row = await self.ask("Get", pb.GetMigrationRequest(id=str(row["id"])))
        assert row["state"] == "completed", row["cause"]
        held = row["blackout_ms"]
        if isinstance(held, float):
            self.held_ms.setdefault(strategy, []).append(held)

    async def open_shards(self) -> list[dict[str, object]]:
        """In key order."""
        async with called():
            info = await CatalogStub(self.channel).DescribeLog(pb.DescribeLogRequest(name=LOG))
        rows = [msgspec.json.decode(s) for s in info.shards_json]
        found = [r for r in rows if r["status"] != "sealed"]
        return sorted(found, key=lambda r: str(r["range"]["start"]))


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_cycles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.journal"
    async with (
        local_cluster(2, data=tmp_path / "data", autopilot="off", node_settings=PATIENT) as cluster,
        logstore.connect(cluster.addresses, timeout_s=60) as db,
        logstore.connect(cluster.addresses, timeout_s=60) as probe,
        open_channel(cluster.address) as channel,
    ):
        await db.create_log(LOG, shards=1, instances=["instance-1"])
        with Journal(path, LOG) as journal:
            async with OpenLoop(probe) as load:
                operator = Operator(channel, db, load)
                async with Tail(operator) as tail:
                    async with Writers(operator, journal) as writers:
                        await writers.more(200)
                        for cycle in range(CYCLES):
                            await one_cycle(operator, cycle)
                            await writers.more(50)
                    expected = writers.acked
                    await tail.reach_of(expected, b"k", limit_s=60)
                    assert tail.faults() == []
            assert load.errors == []
        assert writers.failed == []
        verdict = await verdict_of(operator, path)
        assert verdict.ok, verdict
        assert verdict.acked == expected
    shown = {
        "cycles": CYCLES,
        "acked": expected,
        "open_loop_acks": len(load.acks_s),
        "longest_gap_ms": {k: _told(v) for k, v in operator.gaps_ms.items()},
        "held_ms": {k: _told(v) for k, v in operator.held_ms.items()},
    }
    with capsys.disabled():
        print(json.dumps(shown))


async def one_cycle(operator: Operator, cycle: int) -> None:
    (row,) = await operator.open_shards()
    primary = row["primary"]
    assert isinstance(primary, dict)
    other = "instance-2" if primary["instance"] == "instance-1" else "instance-1"
    low, high = await operator.reshape("split", str(row["shard"]), key=b"k%03d" % (3 * cycle + 5))
    await operator.move(high, other, STRATEGIES[cycle % 3])
    await operator.move(low, other, STRATEGIES[(cycle + 1) % 3])
    names = [str(r["shard"]) for r in await operator.open_shards()]
    await operator.reshape("merge", *names)


def _told(values: list[float]) -> dict[str, float]:
    return {"p50": round(median(values), 1), "max": round(max(values), 1), "n": len(values)}
