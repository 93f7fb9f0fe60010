"""NATS JetStream by nats-py: file storage, one stream, a subject per key."""

import asyncio
import contextlib
import time
from typing import Any, Self

from bench.peers.base import PeerError, Result, Setting
from bench.services.nats import nats
from bench.workload.records import RecordSet, digest_bytes

PENDING_MAX = 4_000
FETCH = 1_000
STREAM = "bench"


class NatsJetStream:
    processes = 2

    def __init__(self, *, sync_always: bool = False) -> None:
        self.name = "nats-jetstream-sync-always" if sync_always else "nats-jetstream"
        self.durability = "fsync" if sync_always else "os"
        self.settings = (
            Setting("storage", "file", "what the others do"),
            Setting("sync_interval", "always" if sync_always else "default, 2 min", "as named"),
            Setting(
                "publish", f"publish_async, {PENDING_MAX} pending", "acks do not stop the next"
            ),
            Setting("record", "subject holds the key, payload the value", "keys cost what they do"),
            Setting("consume", f"pull, {FETCH} a fetch, no acks", "nothing to re-deliver here"),
        )
        self._service = nats(sync_always=sync_always)
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        import nats as client

        await self._service.__aenter__()
        self._connection = await client.connect(
            f"nats://{self._service.address}", pending_size=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._connection is not None:
            await self._connection.close()
        await self._service.__aexit__(*exc)

    async def append(self, records: RecordSet) -> Result:
        from nats.js.api import StorageType
        from nats.js.errors import NotFoundError

        manager = self._connection.jetstream()
        with contextlib.suppress(NotFoundError):  # the first round
            await manager.delete_stream(STREAM)
        await manager.add_stream(name=STREAM, subjects=["b.>"], storage=StorageType.FILE)
        stream = self._connection.jetstream(publish_async_max_pending=PENDING_MAX)
        subjects = [b"b." + key for key in records.key_list()]
        values = records.value_list()
        begin = time.perf_counter()
        futures = [
            await stream.publish_async(subject.decode(), value, wait_stall=30.0)
            for subject, value in zip(subjects, values, strict=True)
        ]
        await asyncio.wait_for(stream.publish_async_completed(), 120)
        acks = await asyncio.gather(*futures)
        seconds = time.perf_counter() - begin
        if len({ack.seq for ack in acks}) != records.count:
            raise PeerError(f"{self.name}: sequence numbers are missing")
        return Result(records.count, records.total_bytes, seconds, digest=records.digest())

    async def consume(self, records: RecordSet) -> Result:
        from nats.js.api import AckPolicy, ConsumerConfig

        stream = self._connection.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        subscription = await stream.pull_subscribe("b.>", stream=STREAM, config=config)
        parts: list[bytes] = []
        got = 0
        begin = time.perf_counter()
        while got < records.count:
            messages = await subscription.fetch(min(FETCH, records.count - got), timeout=10)
            for message in messages:
                parts += (message.subject[2:].encode(), message.data)
            got += len(messages)
        seconds = time.perf_counter() - begin
        await subscription.unsubscribe()
        digest = digest_bytes(b"".join(parts), records.record_bytes)
        return Result(got, records.record_bytes * got, seconds, digest=digest)
