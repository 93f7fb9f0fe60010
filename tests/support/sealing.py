"""A log over real instances in this process, with the real reshape driver and the real client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import logstore
from coordinator.local.checker import Check, Verdict
from coordinator.local.journal import Journal, read_journal
from coordinator.migration.driver import MigrationDriver
from coordinator.migration.nodes import GrpcNodes
from coordinator.migration.reshape import ReshapeRecord
from coordinator.migration.reshape_driver import ReshapeDriver
from logstore.base.env import Env
from logstore.base.errors import LogstoreError, OutcomeUnknownError, VersionConflictError
from logstore.meta.port import Put
from logstore.meta.records import REPLICA_COUNTER, SHARDS, Member, ShardRecord, decode_shard
from logstore.proto.transport import GrpcTransport
from tests.support.nodes import Nodes, nodes

LOG = "orders"
PAUSE_S = 0.01
"""Between two rounds of a writer: load, but never all of the machine."""


class Sealing:
    """The instances, a client, and the coordinator's drivers over one metadata store."""

    def __init__(self, cluster: Nodes, db: logstore.Client) -> None:
        self.nodes, self.db = cluster, db
        self.env = Env()
        self.transport = GrpcTransport()
        self.grpc = GrpcNodes(cluster.store, self.transport)
        self.reshapes = ReshapeDriver(cluster.store, self.grpc, self.env, cluster="c")
        self.moves = MigrationDriver(cluster.store, self.grpc, self.env, cluster="c")

    async def split(self, shard: str, at: bytes) -> ReshapeRecord:
        return await self._ended(await self.reshapes.draft([shard], at))

    async def merge(self, left: str, right: str) -> ReshapeRecord:
        return await self._ended(await self.reshapes.draft([left, right], None))

    async def _ended(self, draft: ReshapeRecord) -> ReshapeRecord:
        record = await self.reshapes.propose(draft)
        async with asyncio.timeout(30):
            return await self.reshapes.ended(record.id)

    async def shards(self) -> dict[str, ShardRecord]:
        items = (await self.nodes.store.range(SHARDS)).items
        return {s.shard: s for s in (decode_shard(i.value) for i in items)}

    async def open_shards(self) -> list[ShardRecord]:
        found = [s for s in (await self.shards()).values() if s.status != "sealed"]
        return sorted(found, key=lambda s: s.range.start)


@asynccontextmanager
async def sealing(
    folder: Path,
    count: int = 1,
    timeout_s: float = 40.0,
    grace_s: float = 26.0,
    follower_s: float = 20.0,
    **options: object,
) -> AsyncIterator[Sealing]:
    """`count` instances and a log of one shard on `i1`, followed on the others."""
    patient = {"follower_timeout_s": follower_s, "lease_s": follower_s, "grace_s": grace_s}
    async with nodes(folder, count, **patient) as cluster:
        await cluster.store.txn([], [Put(REPLICA_COUNTER, b"1000")])
        await cluster.create(f"{LOG}/0", "i1", **options)  # type: ignore[arg-type]
        addresses = [s.address for s in cluster.servers.values()]
        async with logstore.connect(addresses, timeout_s=timeout_s) as db:
            bench = Sealing(cluster, db)
            try:
                yield bench
            finally:
                await bench.reshapes.close()
                await bench.moves.close()
                await bench.transport.close()


class HasClient(Protocol):
    """What the load and the checks need."""

    @property
    def db(self) -> logstore.Client: ...


class Writers:
    """Appends without pause, some of them conditional; journals each outcome."""

    def __init__(self, bench: HasClient, journal: Journal, *, keys: int = 40) -> None:
        self.bench, self.journal = bench, journal
        self.keys = [b"k%03d" % i for i in range(keys)]
        self.acked = 0
        self.failed: list[str] = []
        self.gap_ms = 0.0
        """The longest time between two acks."""
        self._last_s: float | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Writers":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._task is not None
        await self._task

    async def more(self, acks: int) -> None:
        """Wait until so many further appends were acked."""
        goal = self.acked + acks
        async with asyncio.timeout(60):
            while self.acked < goal:
                await asyncio.sleep(0.005)

    async def _run(self) -> None:
        log = await self.bench.db.log(LOG)
        half = len(self.keys) // 2
        plain = [self._plain(log, self.keys[i:half:4]) for i in range(4)]
        await asyncio.gather(*plain, *(self._conditional(log, k) for k in self.keys[half:]))

    async def _plain(self, log: logstore.Log, keys: list[bytes]) -> None:
        """Many in flight, several of one key in a row: their order must hold."""
        i = 0
        while not self._stop.is_set():
            calls = []
            for key in keys:
                for _ in range(2):
                    value, n = b"%s-%d" % (key, i), self.journal.number(key)
                    calls.append(self._one(log, key, value, n, None))
                    i += 1
            await asyncio.gather(*calls)
            await asyncio.sleep(PAUSE_S)

    async def _conditional(self, log: logstore.Log, key: bytes) -> None:
        version, i = 0, 0
        while not self._stop.is_set():
            value, n = b"%s-%d" % (key, i), self.journal.number(key)
            version = await self._one(log, key, value, n, version)
            i += 1
            await asyncio.sleep(PAUSE_S)

    async def _one(
        self, log: logstore.Log, key: bytes, value: bytes, n: int, version: int | None
    ) -> int:
        """Returns the key's version after it."""
        try:
            ack = await log.append(key, value, expected_version=version)
        except VersionConflictError as e:
            self.failed.append(f"{key!r} at version {version}: {e.message}")
            raise
        except OutcomeUnknownError as e:
            self.journal.unknown(key, value, n)
            self.failed.append(e.message)
            raise
        except LogstoreError as e:
            self.failed.append(f"{e.code}: {e.message}")
            raise
        self.journal.acked(key, value, n, ack)
        self.acked += 1
        now_s = asyncio.get_running_loop().time()
        if self._last_s is not None:
            self.gap_ms = max(self.gap_ms, (now_s - self._last_s) * 1e3)
        self._last_s = now_s
        assert version is None or ack.version == version + 1
        return ack.version or 0


class Tail:
    """A tailing reader of every key; checks each key's numbers as they come (I5)."""

    def __init__(self, bench: HasClient) -> None:
        self._bench = bench
        self.seen: dict[bytes, list[bytes]] = {}
        self.count = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Tail":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        results = await asyncio.gather(self._task, return_exceptions=True)
        failed = [e for e in results if isinstance(e, Exception)]
        assert not failed, failed

    async def _run(self) -> None:
        log = await self._bench.db.log(LOG)
        async for record in log.tail(from_start=True):
            self.seen.setdefault(record.key, []).append(record.value)
            self.count += 1

    async def reach(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until so many records came; AssertionError says how far it got."""
        for _ in range(int(limit_s / 0.02)):
            assert self._task is not None
            if self._task.done():
                raise AssertionError("the tail ended") from self._task.exception()
            if self.count >= count:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.count} of {count} records came; {self.faults()[:3]}")

    async def reach_of(self, count: int, prefix: bytes, limit_s: float) -> None:
        """As `reach`, counting only keys with this prefix."""
        for _ in range(int(limit_s / 0.1)):
            if sum(len(v) for k, v in self.seen.items() if k.startswith(prefix)) >= count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{count} records did not come; {self.faults()[:3]}")

    def faults(self) -> list[str]:
        """Keys whose values did not come as 0, 1, 2 … per key."""
        found = []
        for key, values in self.seen.items():
            if not key.startswith(b"k"):
                continue  # another load's
            numbers = [int(v.rsplit(b"-", 1)[1]) for v in values]
            if numbers != sorted(set(numbers)):
                found.append(f"{key!r}: {numbers}")
        return found


async def verdict_of(bench: HasClient, journal: Path) -> Verdict:
    """The independent checker over the whole log."""
    header, entries = read_journal(journal)
    check = Check(header.log)
    check.expect(entries)
    log = await bench.db.log(LOG)
    async for batch in log.scan().batches():
        names = ("key", "value", "timestamp", "shard", "offset")
        for row in zip(*(batch.column(n).to_pylist() for n in names), strict=True):
            check.row(*row)
    return check.verdict()


async def follow(bench: Sealing, shard: str, instance: str) -> None:
    """Bring another copy of the shard into the in-sync set."""
    node = bench.nodes.servers[instance].instance.node
    found = await bench.nodes.store.get(REPLICA_COUNTER)
    assert found is not None
    number = int(found.value)
    await bench.nodes.store.txn([], [Put(REPLICA_COUNTER, str(number + 1).encode())])
    member = Member(instance, node.incarnation, number)
    record = await bench.nodes.record(shard)
    await bench.nodes.change(shard, learners=(*record.learners, member), admit=(number,))
    await bench.nodes.until(shard, lambda r: number in {m.replica_id for m in r.in_sync})
