"""This store, by its public interface only: `logstore up` and the Python client."""

import asyncio
import importlib
import itertools
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from bench.peers.base import PeerError, Result, Setting
from bench.peers.echo import closed_loop
from bench.services.base import ProcessService, ServiceError, ServiceProcess
from bench.services.paths import free_ports
from bench.services.runs import ServiceRun
from bench.workload.open_loop import OpenLoopResult, even_schedule, open_loop
from bench.workload.records import RecordSet, digest_bytes

CHUNK_RECORDS = 4_096
IN_FLIGHT = 16
LINGER_S = 0.005
READY = "ready "
READY_DEADLINE_S = 30.0
POLL_S = 0.02
BACKLOG_DEADLINE_S = 120.0


class OursCluster(ProcessService):
    """`logstore up` with so many instances; ready when it prints its `ready ADDRESS` line."""

    name = "logstore"

    def __init__(self, instances: int = 1, *, run: ServiceRun | None = None) -> None:
        super().__init__(run=run)
        self.instances = instances
        self._address = ""

    @property
    def address(self) -> str:
        return self._address

    def _build(self, run: ServiceRun) -> list[ServiceProcess]:
        self.source = "this checkout"
        name, folder = self._member_folder(run, 0)
        (port,) = free_ports(1)
        code = (
            f"import sys; sys.path[:0] = {sys.path!r}; sys.argv[0] = 'logstore'; "
            "from coordinator.cli.main import main; sys.exit(main())"
        )
        command = [
            sys.executable, "-u", "-c", code, "up", "--instances", str(self.instances),
            "--data", str(folder / "data"), "--port", str(port),
        ]  # fmt: skip
        return [ServiceProcess(name, folder, command, [port])]

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        super().wait_ready(deadline_s)

    def _ready(self) -> bool:
        log = self.members[0].log_path.read_text(errors="replace")
        for line in log.splitlines():
            if line.startswith(READY):
                self._address = line.removeprefix(READY).split()[0]
                return True
        return False


class Ours:
    """A log per `append`, with the options given (`replicas`, `durability`, `key_index`, ...)."""

    def __init__(
        self,
        *,
        name: str = "ours",
        options: Mapping[str, Any] | None = None,
        instances: int = 1,
        cluster: OursCluster | None = None,
    ) -> None:
        self.name = name
        self._options = dict(options or {})
        self._owned = cluster is None
        self._cluster = cluster or OursCluster(instances)
        self.durability = str(self._options.get("durability", "os"))
        self.processes = self._cluster.instances + 2  # instances, coordinator, this client
        self.settings = (
            *(Setting(k, str(v), "as named") for k, v in self._options.items()),
            Setting("call", f"append_many of {CHUNK_RECORDS}", "one batch a shard and call"),
            Setting("in flight", str(IN_FLIGHT), "the acks of some do not stop the next"),
        )
        self._serial = itertools.count()
        self._db: Any = None
        self._opened: Any = None
        self.log: Any = None
        self._log_name = ""

    @property
    def cluster(self) -> OursCluster:
        return self._cluster

    async def __aenter__(self) -> Self:
        if self._owned:
            await self._cluster.__aenter__()
        self._opened = importlib.import_module("logstore").connect(self._cluster.address)
        self._db = await self._opened.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(*exc)
        if self._owned:
            await self._cluster.__aexit__(*exc)

    async def fresh_log(self) -> Any:
        """A new empty log; the last one is deleted, so that data does not pile up."""
        if self._log_name:
            await self._db.delete_log(self._log_name)
        self._log_name = f"bench-{self.name}-{next(self._serial)}-{time.time_ns()}"
        self.log = await self._db.create_log(
            self._log_name, **{"shards": 1, "replicas": 1, **self._options}
        )
        await self._all_in_sync()
        return self.log

    async def _all_in_sync(self) -> None:
        """Wait for every copy, as Kafka's topics are created whole before the clock starts."""
        wanted = int(self._options.get("replicas", 1))
        deadline = time.monotonic() + READY_DEADLINE_S
        while any(len(s.in_sync) < wanted for s in (await self.log.shard_map()).open_shards):
            if time.monotonic() > deadline:
                raise PeerError(f"{self.name}: not {wanted} copies after {READY_DEADLINE_S} s")
            await asyncio.sleep(POLL_S)

    async def append(self, records: RecordSet) -> Result:
        log = await self.fresh_log()
        keys, values = records.arrow()
        starts = iter(range(0, records.count, CHUNK_RECORDS))
        acked = 0

        async def worker() -> None:
            nonlocal acked
            for at in starts:  # shared: each takes the next chunk
                acks = await log.append_many(
                    keys.slice(at, CHUNK_RECORDS), values.slice(at, CHUNK_RECORDS)
                )
                acked += sum(ack.count for ack in acks)

        begin = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        seconds = time.perf_counter() - begin
        if acked != records.count:
            raise PeerError(f"{self.name}: {acked} of {records.count} records were acked")
        return Result(records.count, records.total_bytes, seconds, digest=records.digest())

    async def consume(self, records: RecordSet) -> Result:
        """As Python records, in the lists that they come in (as the peers' batched calls)."""
        parts: list[bytes] = []
        begin = time.perf_counter()
        async for records_read in self.log.lists(tail=False):
            for record in records_read:
                parts.append(record.key)
                parts.append(record.value)
        seconds = time.perf_counter() - begin
        digest = digest_bytes(b"".join(parts), records.record_bytes)
        got = len(parts) // 2
        return Result(got, got * records.record_bytes, seconds, digest=digest)

    async def scan_arrow(self, records: RecordSet) -> Result:
        """As one Arrow table. The digest is made after the clock has stopped."""
        begin = time.perf_counter()
        table = await self.log.scan().to_arrow()
        seconds = time.perf_counter() - begin
        keys, values = table["key"].to_pylist(), table["value"].to_pylist()
        joined = b"".join(itertools.chain.from_iterable(zip(keys, values, strict=True)))
        digest = digest_bytes(joined, records.record_bytes)
        return Result(table.num_rows, len(joined), seconds, digest=digest)

    async def unary_per_s(self, *, concurrency: int, seconds: float) -> float:
        """Single-record appends, each awaited by its worker before the next; the client joins
        waiting ones into one batch."""
        log = await self.fresh_log()
        number = itertools.count()
        value = bytes(84)

        async def one() -> None:
            await log.append(b"key-%012d" % next(number), value)

        await one()
        return await closed_loop(one, concurrency=concurrency, seconds=seconds)

    async def rpc_per_s(self, *, concurrency: int, seconds: float) -> float:
        """The bare unary Append RPC, one record a call, as other languages' clients send it."""
        import grpc

        from logstore.proto.v1 import log_pb2, log_pb2_grpc

        log = await self.fresh_log()
        (shard,) = (await log.shard_map()).open_shards
        number = itertools.count()
        value = bytes(84)
        await log.append(b"first", value)  # the client waits until the instance has the shard
        async with grpc.aio.insecure_channel(shard.address) as channel:
            stub: Any = log_pb2_grpc.LogServiceStub(channel)

            async def one() -> None:
                record = log_pb2.Record(key=b"key-%012d" % next(number), value=value)
                reply = await stub.Append(
                    log_pb2.AppendRequest(log=self._log_name, shard=shard.id, records=[record])
                )
                if reply.count != 1:
                    raise PeerError(f"{self.name}: an append of one stored {reply.count}")

            await one()
            return await closed_loop(one, concurrency=concurrency, seconds=seconds)

    async def open_loop(
        self, records: RecordSet, *, rate_per_s: float, batch_max: int = CHUNK_RECORDS
    ) -> OpenLoopResult:
        """All records at a fixed rate, with the linger that Kafka's producer has in this test."""
        log = await self.fresh_log()
        keys, values = records.arrow()

        async def send(start: int, stop: int) -> None:
            await log.append_many(
                keys.slice(start, stop - start), values.slice(start, stop - start)
            )

        schedule = even_schedule(rate_per_s, records.count / rate_per_s)
        return await open_loop(send, schedule, batch_max=batch_max, linger_s=LINGER_S)

    async def index_backlog_s(self) -> float:
        """Seconds from now until the key index reaches the log end of every shard."""
        import grpc

        from logstore.proto.v1 import node_pb2, node_pb2_grpc

        shards = (await self.log.shard_map()).open_shards
        begin = time.perf_counter()
        for shard in shards:
            async with grpc.aio.insecure_channel(shard.address) as channel:
                admin: Any = node_pb2_grpc.NodeAdminStub(channel)
                request = node_pb2.StatusRequest(shard=shard.id)
                while (await admin.Status(request)).replicas[0].index_backlog:
                    if time.perf_counter() - begin > BACKLOG_DEADLINE_S:
                        raise PeerError(f"{self.name}: not indexed in {BACKLOG_DEADLINE_S} s")
                    await asyncio.sleep(POLL_S)
        return time.perf_counter() - begin

    async def read_keys_ms(
        self, records: RecordSet, *, reads: int, seed: int
    ) -> np.ndarray[Any, Any]:
        """Milliseconds of single-key reads of the last appended records, one after the other."""
        rng = np.random.default_rng(seed)
        took = np.empty(reads)
        for at, row in enumerate(rng.integers(0, records.count, reads)):
            key = records.keys[row].tobytes()
            begin = time.perf_counter()
            found = [record.value async for record in self.log.read(key=key)]
            took[at] = (time.perf_counter() - begin) * 1e3
            if found != [records.values[row].tobytes()]:
                raise PeerError(f"{self.name}: key {key!r} has {len(found)} records, not its one")
        return took


def available() -> str | None:
    """None if our server and client can be started here, else why not."""
    try:
        importlib.import_module("coordinator.cli.main")
        if not hasattr(importlib.import_module("logstore"), "connect"):
            return "logstore.connect does not exist"
        with OursCluster(1):
            return None
    except (ImportError, ServiceError) as error:
        return str(error)
