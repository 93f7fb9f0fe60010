"""The client for code without asyncio: one background thread runs the event loop.

Generated from client.py by `python -m logstore.client.generate`; do not edit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pyarrow as pa

from logstore.base.env import Env
from logstore.base.public import public
from logstore.base.tls import TlsOptions
from logstore.base.types import Ack, Placed, Record
from logstore.client.client import TIMEOUT_S, Log, Scan, connect
from logstore.client.options import (
    CreateLogOptions,
    PartitionerName,
    PlaceOptions,
    ReadOptions,
    TailOptions,
)
from logstore.client.sync_base import SyncBase, SyncClientBase, SyncRecords, SyncResults
from sharder.shard_map import ShardMap


@public
def connect_sync(
    addresses: str | Sequence[str],
    *,
    client_group: str = "default",
    tls: TlsOptions | None = None,
    timeout_s: float = TIMEOUT_S,
    env: Env | None = None,
) -> "SyncClient":
    """A client for `with`; nothing is sent before the first use.

    addresses: `host:port` of coordinator and/or instances: one, several with commas, or a list; it
        works from any that answers.
    client_group: the caller's name in statistics: at most 200 bytes, printable.
    tls: keys and certificates; None: plain text.
    timeout_s: seconds after which a call that makes no progress ends; an append that was sent then
        ends in OutcomeUnknownError.
    env: clock and random generator, for tests.

    Errors: InvalidArgumentError for an invalid address.

    Example:
        with logstore.connect_sync("127.0.0.1:7400") as db:
            print(db.list_logs())
    """
    return SyncClient(
        connect(addresses, client_group=client_group, tls=tls, timeout_s=timeout_s, env=env)
    )


@public
class SyncClient(SyncClientBase):
    """A connection to a cluster, made by `connect_sync`; all its logs share streams and buffers.

    It may be used from several threads at once, not in a forked child. A call in progress
    in another thread ends with ClientClosedError when the client is closed.

    Example:
        log = db.create_log("orders", shards=2)
        print(db.list_logs())
        db.delete_log("orders")
    """

    def create_log(
        self,
        name: str,
        *,
        partitioner: PartitionerName = "range",
        shards: int | None = None,
        split_keys: Sequence[bytes] = (),
        instances: Sequence[str] = (),
        **options: Unpack[CreateLogOptions],
    ) -> "SyncLog":
        """Create a log, and open it.

        partitioner: "range" (shards are ranges of keys), "hash" (of their hashes), or "balanced"
            (keys go where there is room).
        shards: how many even ranges; None: one, of a balanced log one for each instance.
        split_keys: where the ranges are cut, instead of `shards`.
        instances: the primary of each shard, instead of the ring.
        options: replicas, durability and so on, see CreateLogOptions.

        Errors: AlreadyExistsError; InvalidArgumentError names the field and the value.

        Example:
            log = db.create_log("orders", split_keys=[b"m"], compression="lz4")
        """
        return SyncLog(
            self._run(
                lambda: self._target.create_log(
                    name,
                    partitioner=partitioner,
                    shards=shards,
                    split_keys=split_keys,
                    instances=instances,
                    **options,
                )
            ),
            self._open(),
        )

    def log(self, name: str) -> "SyncLog":
        """Open a log that exists, else UnknownLogError.

        Example:
            log = db.log("orders")
        """
        return SyncLog(self._run(lambda: self._target.log(name)), self._open())

    def list_logs(self) -> list[str]:
        """The names of all logs, sorted.

        Example:
            print(db.list_logs())
        """
        return self._run(lambda: self._target.list_logs())

    def delete_log(self, name: str, *, now: bool = False) -> None:
        """Delete a log with all its records, else UnknownLogError. Its reads, tails and appends in
        progress end with UnknownLogError, in this client now and in others within a second.

        For 24 h `logstore log restore` can bring it back; with `now` its space is freed at
        once, and it cannot be restored.

        Example:
            db.delete_log("orders", now=True)
        """
        self._run(lambda: self._target.delete_log(name, now=now))


@public
class SyncLog(SyncBase[Log]):
    """Appends and reads of one log, made by `SyncClient.log`.

    It stays the log that it was made for: once that log is deleted every call is UnknownLogError,
    also when there is a new log of the same name, which the error then names.

    Example:
        log = db.log("orders")
        log.append(b"user-1", b"12 apples")
        for record in log.read(key=b"user-1"):
            print(record.offset, record.value)
    """

    @property
    def name(self) -> str:
        """The log's name."""
        return self._target.name

    def append(
        self,
        key: bytes,
        value: bytes,
        *,
        headers: Mapping[str, bytes] | None = None,
        timestamp: int | None = None,
        expected_version: int | None = None,
    ) -> Ack:
        """Append one record; appends that run at the same time share batches.

        key, value: bytes, 4 KiB and (with key and headers) 1 MiB at most.
        headers: up to 32, taken as they are now; they count in the record's size, names in UTF-8.
        timestamp: int64 microseconds since 1970 UTC; None: the primary stamps.
        expected_version: how many records the key must have, else VersionConflictError.

        Errors: InvalidArgumentError and LimitExceededError before anything is sent;
        OutcomeUnknownError when it was sent and no answer came within the client's `timeout_s`.
        Whether a call that is cancelled was stored is not known either.

        Example:
            ack = log.append(b"user-1", b"12 apples", headers={"by": b"web"})
            print(ack.shard, ack.offset)
        """
        return self._run(
            lambda: self._target.append(
                key, value, headers=headers, timestamp=timestamp, expected_version=expected_version
            )
        )

    def append_many(self, keys: Any, values: Any, timestamps: Any = None) -> list[Ack]:
        """Append rows given as columns of one length.

        keys, values: sequences of bytes, numpy or Arrow arrays, pandas or polars Series. Every byte
            is stored as given, or the column is refused by name (see logstore.client.columns).
        timestamps: int64 microseconds since 1970 UTC, one a row; None: the primary stamps.

        One Ack (first offset and count) per stored batch; rows of one key keep their order. Each
        batch has the client's `timeout_s` from when it entered the buffer.

        Errors: InvalidArgumentError, LimitExceededError; AppendManyError lists the rows that are
        stored, that are not, and of which it is unknown.

        Example:
            acks = log.append_many([b"user-1", b"user-2"], [b"12 apples", b"7 pears"])
            print(sum(ack.count for ack in acks))
        """
        return self._run(lambda: self._target.append_many(keys, values, timestamps))

    def place(self, key: bytes, **options: Unpack[PlaceOptions]) -> Placed:
        """The place of a key of a balanced log before its first write: drawn by predicted headroom,
        remembered, and the same ever after, whatever the options are then; see PlaceOptions.

        Errors: InvalidArgumentError, also of a log that is not balanced; UnavailableError.

        Example:
            log = db.create_log("carts", partitioner="balanced")
            print((log.place(b"user-1", size=1_000)).instance)
        """
        return self._run(lambda: self._target.place(key, **options))

    def read(self, **options: Unpack[ReadOptions]) -> SyncRecords:
        """Records up to the high watermarks at the first step: of one key, of keys in [start, end),
        of a shard from an offset on, since a time; see ReadOptions.

        order="any" keeps each key's order and is fastest; order="key" gives key, then offset, and
        holds at most ORDERED_READ_BYTES_MAX. Errors: InvalidArgumentError at once for an option
        that there is not, or that is out of range.

        Example:
            for record in log.read(start=b"user-", end=b"user.", limit=10):
                print(record.key, record.value)
        """
        return SyncRecords(self._target.read(**options), self._open())

    def tail(self, **options: Unpack[TailOptions]) -> SyncRecords:
        """Records that are appended after the tail has begun, as they are committed, until the
        caller leaves; see TailOptions.

        It begins with the first step, once each shard has returned its end. With
        `from_start`, `since` or `offset` stored records come first. With `idle_timeout_s`
        it also ends, without an error, when a step has waited this long for a record; to wait for
        some time and go on later, use `poll`.

        Errors: InvalidArgumentError at once; it ends with UnknownLogError when the log is deleted,
        with ClientClosedError when the client is closed.

        Example:
            for record in log.tail(from_start=True, idle_timeout_s=0.2):
                print(record.key, record.value)
        """
        return SyncRecords(self._target.tail(**options), self._open())

    def scan(self, **options: Unpack[ReadOptions]) -> "SyncScan":
        """The records that `read` would give, as columns; see `SyncScan` and `ReadOptions`.

        Errors: InvalidArgumentError at once, as `read`.

        Example:
            table = log.scan(since=1_700_000_000_000_000).to_arrow()
            print(table.num_rows)
        """
        return SyncScan(self._target.scan(**options), self._open())

    @property
    def trimmed(self) -> dict[str, int]:
        """Shard -> first kept offset, of shards that this client's reads found trimmed.

        A read or tail without an offset begins there; an offset below it is OutOfRangeError.
        """
        return self._target.trimmed

    def shard_map(self) -> ShardMap:
        """The newest map: ranges, primaries, epochs.

        Example:
            shard_map = log.shard_map()
            print([shard.id for shard in shard_map.open_shards])
        """
        return self._run(lambda: self._target.shard_map())

    def lists(
        self,
        *,
        tail: bool,
        from_start: bool = False,
        idle_timeout_s: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> SyncResults[list[Record]]:
        """What `read` (or with `tail` a tail) yields, in lists as they come: fewer steps a record.

        Example:
            for records in log.lists(tail=False, key=b"user-1"):
                print(len(records))
        """
        return SyncResults(
            self._target.lists(
                tail=tail, from_start=from_start, idle_timeout_s=idle_timeout_s, **options
            ),
            self._open(),
        )


@public
class SyncScan(SyncBase[Scan]):
    """The result of `SyncLog.scan`, read on request.

    Columns: key, value (binary), timestamp (int64 µs, UTC), headers, shard, offset; the schema is
    logstore.client.pages.SCAN_SCHEMA.

    Example:
        table = log.scan(start=b"user-", end=b"user.").to_arrow()
    """

    def batches(self) -> SyncResults[pa.RecordBatch]:
        """Arrow batches as they come.

        Example:
            with log.scan().batches() as batches:
                for batch in batches:
                    print(batch.num_rows)
        """
        return SyncResults(self._target.batches(), self._open())

    def to_arrow(self) -> pa.Table:
        """Everything as one Arrow table.

        Example:
            table = log.scan(key=b"user-1").to_arrow()
        """
        return self._run(lambda: self._target.to_arrow())

    def to_pandas(self) -> Any:
        """Everything as a pandas DataFrame; needs pandas (ImportError)."""
        return self._run(lambda: self._target.to_pandas())

    def to_polars(self) -> Any:
        """Everything as a polars DataFrame; needs polars (InvalidArgumentError)."""
        return self._run(lambda: self._target.to_polars())
