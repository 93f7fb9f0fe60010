"""Redis streams by redis-py's asyncio client, pipelined."""

import time
from typing import Any, Self

from bench.peers.base import PeerError, Result, Setting
from bench.services.redis import FsyncPolicy, redis
from bench.workload.records import RecordSet, digest_bytes

PIPELINE = 1_000
READ_COUNT = 10_000
STREAM = "bench"


class RedisStreams:
    processes = 2

    def __init__(self, *, appendfsync: FsyncPolicy = "everysec") -> None:
        self.name = f"redis-streams-{appendfsync}"
        self.durability = "fsync" if appendfsync == "always" else "os"
        self.settings = (
            Setting("appendonly, appendfsync", appendfsync, "as named"),
            Setting(
                "XADD", f"{PIPELINE} a pipeline, no MULTI", "a round trip each would be 20 x slower"
            ),
            Setting("record", "fields k and v", "the key is data, as in ours"),
            Setting("read", f"XRANGE, {READ_COUNT} a call", "many per call"),
        )
        self._service = redis(appendfsync=appendfsync)
        self._client: Any = None

    async def __aenter__(self) -> Self:
        from redis.asyncio import Redis

        await self._service.__aenter__()
        host, _, port = self._service.address.rpartition(":")
        self._client = Redis(host=host, port=int(port))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.aclose()
        await self._service.__aexit__(*exc)

    async def append(self, records: RecordSet) -> Result:
        await self._client.delete(STREAM)
        keys, values = records.key_list(), records.value_list()
        acked = 0
        begin = time.perf_counter()
        for at in range(0, records.count, PIPELINE):
            pipe = self._client.pipeline(transaction=False)
            for key, value in zip(
                keys[at : at + PIPELINE], values[at : at + PIPELINE], strict=True
            ):
                pipe.xadd(STREAM, {b"k": key, b"v": value})
            acked += len(await pipe.execute())
        seconds = time.perf_counter() - begin
        if acked != records.count or await self._client.xlen(STREAM) != records.count:
            raise PeerError(f"{self.name}: {acked} acks for {records.count} records")
        return Result(records.count, records.total_bytes, seconds, digest=records.digest())

    async def consume(self, records: RecordSet) -> Result:
        parts: list[bytes] = []
        got, start = 0, b"-"
        begin = time.perf_counter()
        while entries := await self._client.xrange(STREAM, start, count=READ_COUNT):
            for _, fields in entries:
                parts += (fields[b"k"], fields[b"v"])
            got += len(entries)
            start = b"(" + entries[-1][0]
        seconds = time.perf_counter() - begin
        digest = digest_bytes(b"".join(parts), records.record_bytes)
        return Result(got, records.record_bytes * got, seconds, digest=digest)
