"""kill -9 of the source, the target and the coordinator in every state of a move (I7).

Real processes, a loader that never stops, and the independent checker at the end. A watch on the
metadata fires the kill within milliseconds of the state's transaction, while its work is under way.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

import logstore
from coordinator.local.checker import check_log
from coordinator.local.cluster import LocalCluster, local_cluster
from coordinator.local.journal import Journal
from coordinator.migration.records import END_STATES, State
from logstore.base.errors import LogstoreError
from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
from logstore.meta.port import MetadataStore
from logstore.meta.records import MIGRATIONS
from logstore.meta.remote import RemoteMetadataStore
from logstore.proto.channel import open_channel
from logstore.proto.coordinator_v1 import coordinator_pb2
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import MigrationsStub
from logstore.proto.status import called

SHARD = "orders/0"
VICTIMS = ("source", "target", "coordinator")
ACTIVE = tuple(s for s in State if s not in END_STATES)
OPTIONS = {"shadow_s": 0.3, "soak_s": 1.0, "ramp_step": 0.1, "ramp_interval_s": 0.05,
           "snapshot_timeout_s": 60.0, "cutover_timeout_s": 30.0}  # fmt: skip
END_WITHIN_S = 60.0


class EndedBefore(AssertionError):
    """The move ended before it came to the state."""


class Loader:
    """Appends and reads of its own keys until stopped; journals what was acked."""

    def __init__(self, addresses: str, journal: Journal) -> None:
        self._addresses, self._journal = addresses, journal
        self._stop = asyncio.Event()
        self.errors: list[str] = []

    async def run(self) -> None:
        async with logstore.connect(self._addresses, timeout_s=60) as db:
            log = await db.log("orders")
            await asyncio.gather(*(self._append(log, w) for w in range(4)), self._read(log))

    async def _append(self, log: logstore.Log, worker: int) -> None:
        i = 0
        while not self._stop.is_set():
            key, value = b"key-%d-%d" % (worker, i % 50), b"value-%d-%d" % (worker, i)
            n = self._journal.number(key)
            try:
                ack = await log.append(key, value)
            except LogstoreError as e:
                self.errors.append(f"append: {e.code}: {e.message}")
                self._journal.unknown(key, value, n)
            else:
                self._journal.acked(key, value, n, ack)
            i += 1
            await asyncio.sleep(0.002)

    async def _read(self, log: logstore.Log) -> None:
        while not self._stop.is_set():
            try:
                values = [r.value async for r in log.read(key=b"key-0-1")]
                seen = [int(v.rsplit(b"-", 1)[1]) for v in values]
                assert seen == sorted(set(seen))
            except LogstoreError as e:
                self.errors.append(f"read: {e.code}: {e.message}")
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()


class Moves:
    """What an operator does: ask for moves, watch them, kill processes."""

    def __init__(self, cluster: LocalCluster, metadata: str | None = None) -> None:
        self.cluster, self.metadata = cluster, metadata
        self.killed: set[tuple[State, str]] = set()

    def store(self) -> MetadataStore:
        """The cluster's: an etcd by its URL, else the coordinator's own."""
        if self.metadata is not None:
            return EtcdMetadataStore(EtcdTarget.of(self.metadata))
        return RemoteMetadataStore([self.cluster.address])

    async def ask(self, method: str, request: object) -> dict[str, object]:
        """One call, repeated while the coordinator is being restarted."""
        async with asyncio.timeout(30):
            while True:
                try:
                    async with open_channel(self.cluster.address) as channel, called():
                        stub = MigrationsStub(channel)
                        answer = await getattr(stub, method)(request, timeout=5)
                        return dict(msgspec.json.decode(answer.json))
                except LogstoreError as e:
                    if not e.retriable:
                        raise
                    await asyncio.sleep(0.1)

    async def move(
        self, target: str, strategy: str = "shadow", shard: str = SHARD, **options: object
    ) -> str:
        request = coordinator_pb2.MoveRequest(
            shard=shard,
            target=target,
            strategy=strategy,
            options_json=msgspec.json.encode({**OPTIONS, **options}),
        )
        return str((await self.ask("Move", request))["id"])

    async def get(self, id_: str) -> dict[str, object]:
        return await self.ask("Get", coordinator_pb2.GetMigrationRequest(id=id_))

    async def rollback(self, id_: str) -> None:
        request = coordinator_pb2.ControlRequest(id=id_, action="rollback", cause="test")
        await self.ask("Control", request)

    @asynccontextmanager
    async def states(self) -> AsyncIterator["asyncio.Queue[tuple[str, State]]"]:
        """(migration, state) as the metadata says, from now on."""
        queue: asyncio.Queue[tuple[str, State]] = asyncio.Queue()
        store = self.store()
        revision = (await store.range(MIGRATIONS)).revision

        async def follow() -> None:
            nonlocal revision
            while True:
                try:
                    async for events in store.watch(MIGRATIONS, revision):
                        revision = events[-1].revision
                        for row in (msgspec.json.decode(e.value) for e in events if e.value):
                            queue.put_nowait((row["id"], State(row["state"])))
                except LogstoreError:
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(follow())
        try:
            yield queue
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()


async def kill_when(
    moves: Moves,
    state: State,
    victim: str,
    source: str,
    target: str,
    strategy: str = "shadow",
    shard: str = SHARD,
    kill: Callable[[], Awaitable[None]] | None = None,
    **options: object,
) -> State:
    """Move source → target; kill `victim` as `state` begins; the state that the move ends in.
    `kill`: how, when it is no process of the cluster."""
    process = {"source": source, "target": target, "coordinator": "coordinator"}.get(victim, "")
    async with moves.states() as states:
        id_ = await moves.move(target, strategy, shard, **options)
        async with asyncio.timeout(END_WITHIN_S):
            asked = False
            while True:
                seen, now = await states.get()
                if seen != id_:
                    continue
                if state is State.ROLLING_BACK and now is State.SOAKING and not asked:
                    asked = True
                    await moves.rollback(id_)
                if now is state:
                    if kill is None:
                        moves.cluster.kill(process)
                    else:
                        await kill()
                    moves.killed.add((state, victim))
                    break
                if now in END_STATES:
                    raise EndedBefore(f"{id_} ended in {now} before {state}")
            while True:
                row = await moves.get(id_)
                if State(str(row["state"])) in END_STATES:
                    return State(str(row["state"]))
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_kill_of_anyone_in_any_state(tmp_path: Path) -> None:
    async with local_cluster(2, data=tmp_path / "data", autopilot="off") as cluster:
        async with logstore.connect(cluster.address) as db:
            log = await db.create_log("orders", shards=1, instances=["instance-1"])
            with Journal(tmp_path / "bulk.journal", "orders") as journal:
                keys = [b"bulk-%d" % i for i in range(20_000)]
                values = [b"%0100d" % i for i in range(20_000)]
                for at in range(0, len(keys), 1000):
                    part = slice(at, at + 1000)
                    numbers = [journal.number(k) for k in keys[part]]
                    acks = await log.append_many(keys[part], values[part])
                    offset = at
                    assert acks[0].offset == offset
                    for i, n in enumerate(numbers):
                        journal.acked(keys[at + i], values[at + i], n,
                                      logstore.Ack(SHARD, offset + i, 0))  # fmt: skip
        moves = Moves(cluster)
        with Journal(tmp_path / "live.journal", "orders") as journal:
            loader = Loader(cluster.addresses, journal)
            running = asyncio.create_task(loader.run())
            here, there = "instance-1", "instance-2"
            ends: dict[tuple[State, str], State] = {}
            for state in ACTIVE:
                for victim in VICTIMS:
                    end = await kill_when(moves, state, victim, here, there)
                    ends[state, victim] = end
                    if end is State.COMPLETED:
                        here, there = there, here
                    await cluster.wait_ready()
            loader.stop()
            await running
        assert moves.killed == {(s, v) for s in ACTIVE for v in VICTIMS}
        assert set(ends.values()) <= {State.COMPLETED, State.ROLLED_BACK}, ends
        for path in ("bulk.journal", "live.journal"):
            verdict = await check_log(cluster.addresses, [tmp_path / path])
            assert verdict.ok, verdict
            assert verdict.acked > 1_000
